# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A plain network comes out of a definition, base weights and an adapter; nothing of it is random."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets import UNETR, ViT

from monai_essa import adapt, merge, save_adapter
from monai_essa.bundling.finished_run import merge_adapter_file, network_of_config, save_weights
from monai_essa.bundling.folder import bundle_folder
from monai_essa.methods import APLA


def vit() -> ViT:
    return ViT(1, [32] * 3, 16, hidden_size=48, mlp_dim=96, num_layers=12, num_heads=4, qkv_bias=True)


def unetr() -> UNETR:
    return UNETR(1, 2, [32] * 3, feature_size=4, hidden_size=48, mlp_dim=96, num_heads=4, qkv_bias=True)


def test_the_values_are_over_those_of_the_config() -> None:
    config = bundle_folder("essa_segmentation") / "configs" / "inference.yaml"
    values = {"img_size": [32] * 3, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 4}
    built = network_of_config([config], values).state_dict()
    assert {name: tensor.shape for name, tensor in built.items()} == {
        name: tensor.shape for name, tensor in unetr().state_dict().items()
    }


def test_a_config_without_a_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("lr: 1.0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no 'network_def'"):
        network_of_config([tmp_path / "site.yaml"], {})


@pytest.mark.parametrize("number", [0, 1])
def test_what_was_saved_is_what_is_merged(number: int, files) -> None:
    plain, report = merge_adapter_file(vit(), files.base, files.adapters[number])
    state = plain.state_dict()
    assert type(plain) is ViT
    assert state.keys() == files.merged[number].keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in files.merged[number].items())
    assert report.encoder_share == 1


def test_of_several_networks_the_prefix_names_the_base(files, tmp_path: Path) -> None:
    base = torch.load(files.base, weights_only=True)
    torch.save({"last": {name: tensor + 1 for name, tensor in base.items()}, "best": base}, tmp_path / "both.pt")
    with pytest.raises(ValueError, match="both.pt holds 2 networks"):
        merge_adapter_file(vit(), tmp_path / "both.pt", files.adapters[0])
    plain, report = merge_adapter_file(vit(), tmp_path / "both.pt", files.adapters[0], base_prefix="best")
    assert report.prefix == "best."
    assert all(torch.equal(plain.state_dict()[name], tensor) for name, tensor in files.merged[0].items())


def test_another_base_is_refused(files, tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.save(vit().state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="was trained on another base"):
        merge_adapter_file(vit(), tmp_path / "other.pt", files.adapters[0])


def test_a_decoder_that_no_file_holds_is_refused(files) -> None:
    with pytest.raises(ValueError, match=r"of the decoder is neither in .*vit.pt nor in the adapter"):
        merge_adapter_file(unetr(), files.base, files.adapters[0])


def test_a_decoder_that_the_adapter_holds_is_enough(files, tmp_path: Path) -> None:
    network = unetr()
    network.vit.load_state_dict(torch.load(files.base, weights_only=True))
    adapt(network, APLA(), also_train=[r"(encoder|decoder)\d+\..*", r"out\..*"])
    save_adapter(network, tmp_path / "segmentation.safetensors")
    plain, _ = merge_adapter_file(unetr(), files.base, tmp_path / "segmentation.safetensors")
    expected = merge(network).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in plain.state_dict().items())


def test_weights_are_written_whole_under_their_name(tmp_path: Path) -> None:
    network = vit()
    save_weights(network, tmp_path / "new" / "model.pt")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.pt"]
    vit().load_state_dict(torch.load(tmp_path / "new" / "model.pt", weights_only=True), strict=True)


def test_weights_that_are_there_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="expected a new file"):
        save_weights(vit(), tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_text() == "mine"
