# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Public files of Swin transformers go into the SwinUNETR of the bundles by ``pretrained`` and the overlay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_essa.bundling.finished_run import network_of_config
from monai_essa.bundling.folder import bundle_folder
from monai_essa.engines import pretext_network, supervised_network
from monai_essa.licence import kept_origin
from monai_essa.methods import APLA
from tests.weights.fabricated import swin_file, wrapped

SIZES = {"img_size": [64, 64, 64], "feature_size": 12}


@pytest.mark.parametrize("bundle", ["essa_ssa", "essa_segmentation"])
@pytest.mark.parametrize("second", [False, True], ids=["model_swinvit.pt", "VoCo_B_SSL_head.pt"])
def test_a_public_swin_is_the_base_of_the_bundles_swin_unetr(
    bundle: str, second: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = bundle_folder(bundle) / "configs"
    files = [configs / "train.yaml", configs / f"network_swin_unetr{'_v2' if second else ''}.yaml"]
    source, network = (network_of_config(files, SIZES) for _ in range(2))
    if second:
        content, name = wrapped(source.state_dict(), "state_dict", "module."), "VoCo_B_SSL_head.pt"
    else:
        content, name = wrapped(swin_file(source, "ssl"), "state_dict", ""), "model_swinvit.pt"
    torch.save(content, tmp_path / name)

    monkeypatch.setenv("MONAI_ESSA_WEIGHTS", str(tmp_path))
    family = "voco" if second else "swin_unetr_ssl"
    if bundle == "essa_ssa":
        pretext_network(network, APLA(), pretrained=f"family:{family}")
    else:
        supervised_network(
            network, "encoder", APLA(), pretrained=tmp_path / name, also_train=[r"(encoder|decoder)\d+\..*", r"out\..*"]
        )
    loaded = network.swinViT.state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in source.swinViT.state_dict().items())
    origin = kept_origin(network)
    assert origin is not None and origin["family"] == family
