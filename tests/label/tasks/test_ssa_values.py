# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.bundling.copy import BundleVariant, copy_bundle
from monai_essa.bundling.folder import bundle_folder
from monai_essa.label.tasks.ssa import ssa_values

SIZES: dict[str, dict[str, Any]] = {
    "unetr": {"img_size": [32] * 3, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 8},
    "swin_unetr": {"img_size": [64] * 3, "feature_size": 12},
    "segresnet": {"img_size": [32] * 3, "feature_size": 8},
}
CHOICES = [("unetr", "lora", "MAE"), ("swin_unetr", "ssf", "SimMIM"), ("segresnet", "lora_conv", "SimMIM")]


def values_of(tmp_path: Path, network: str, method: str, **values: Any) -> dict[str, Any]:
    overlays = {"network": network, "method": method, "intensity": "ct"}
    variant = BundleVariant("liver", overlays, SIZES[network] | values)
    return ssa_values(copy_bundle(bundle_folder("essa_segmentation"), tmp_path, variant))


@pytest.mark.parametrize(("network", "method", "objective"), CHOICES)
def test_network_method_and_preprocessing_are_the_bundles(
    network: str, method: str, objective: str, tmp_path: Path
) -> None:
    values = values_of(tmp_path, network, method, spacing=[1.5, 1.5, 2.0])
    parser = ConfigParser()
    parser.read_config(str(bundle_folder("essa_ssa") / "configs" / "train.yaml"))
    parser.update(values)
    segments = ConfigParser()
    segments.read_config(str(tmp_path / "liver" / "configs" / "train.yaml"))

    assert (parser["spacing"], parser["img_size"]) == ([1.5, 1.5, 2.0], SIZES[network]["img_size"])
    assert (parser["intensity"], parser["intensity_name"]) == (segments["intensity"], "ct")
    assert parser.get_parsed_content("method") == segments.get_parsed_content("method")
    shapes = [
        {name: value.shape for name, value in config.get_parsed_content("network_def").state_dict().items()}
        for config in (parser, segments)
    ]
    assert shapes[0] == shapes[1]
    assert values.get("objective", {"_target_": "MAE"})["_target_"].endswith(objective)
    assert parser["lr"] == 1.0e-3  # not LoRA's rate for labels


def test_full_tuning_has_a_rate_of_its_own(tmp_path: Path) -> None:
    assert values_of(tmp_path, "unetr", "full")["lr"] == 1.0e-4


def test_a_network_without_an_overlay_learns_by_simmim(tmp_path: Path) -> None:
    bundle = copy_bundle(bundle_folder("essa_segmentation"), tmp_path, BundleVariant("mine", {}, SIZES["unetr"]))
    train = bundle / "configs" / "train.yaml"
    unet = (
        "_target_: UNet, spatial_dims: 3, in_channels: '@in_channels', out_channels: 2, channels: [8, 16], strides: [2]"
    )
    text = train.read_text().replace("network_def:\n", f"network_def: {{{unet}}}\nunused:\n", 1)
    train.write_text(text.replace("axcodes: RAS", "axcodes: LPS", 1))
    values = ssa_values(bundle)
    assert values["objective"]["_target_"].endswith("SimMIM")
    assert values["network_def"]["in_channels"] == 1
    assert values["axcodes"] == "LPS"
