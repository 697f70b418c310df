# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""metadata.json says what the configs are, in the fields and types of the shipped one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_essa.bundling.copy import write_metadata, write_variant
from monai_essa.bundling.folder import bundle_folder

WIDTH = {"img_size": [32, 32, 48], "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
SWIN = {"img_size": [64, 64, 96]}


def metadata(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))


def shape_of(value: Any) -> Any:
    """The fields and types of a JSON value; lists and what names channels may be of any length."""
    if isinstance(value, dict):
        return {key: dict if key == "channel_def" else shape_of(each) for key, each in value.items()}
    return [shape_of(value[0])] if isinstance(value, list) and value else type(value)


@pytest.fixture
def variant(tmp_path: Path) -> Callable[..., Path]:
    def make(bundle: str, overlays: dict[str, str], values: dict[str, Any]) -> Path:
        folder = Path(shutil.copytree(bundle_folder(bundle), tmp_path / bundle))
        write_variant(folder, overlays, values)
        write_metadata(folder, "my_bundle", overlays)
        return folder

    return make


@pytest.mark.parametrize(
    ("bundle", "network", "values", "channels", "shape"),
    [
        ("essa_segmentation", "unetr", WIDTH | {"feature_size": 4}, 2, [32, 32, 48]),
        ("essa_segmentation", "swin_unetr", SWIN | {"feature_size": 12}, 2, [64, 64, 96]),
        ("essa_ssa", "vit", WIDTH, 48, [2, 2, 3]),  # a feature map of patches of 16
        ("essa_ssa", "unetr", WIDTH, 48, [2, 2, 3]),
        ("essa_ssa", "swin_unetr", SWIN | {"feature_size": 12}, 192, [2, 2, 3]),  # 2 ** 4 x 12, stride 32
        ("essa_ssa", "segresnet", {"img_size": [32, 32, 48], "feature_size": 8}, 64, [4, 4, 6]),  # 2 ** 3 x 8, stride 8
        ("essa_ssa", "resnet", {"img_size": [64, 32, 32], "feature_size": 8}, 256, [2, 1, 1]),  # 4 x 2 ** 3 x 8
    ],
)
def test_the_data_format_is_that_of_the_network(
    bundle: str, network: str, values: dict[str, Any], channels: int, shape: list[int], variant
) -> None:
    folder = variant(bundle, {"network": network}, values)
    data_format = metadata(folder)["network_data_format"]
    assert data_format["inputs"]["image"]["spatial_shape"] == values["img_size"]
    assert data_format["outputs"]["pred"]["num_channels"] == channels
    assert data_format["outputs"]["pred"]["spatial_shape"] == shape
    assert shape_of(metadata(folder)) == shape_of(metadata(bundle_folder(bundle)))


def test_name_and_description_are_the_variants_own(variant) -> None:
    written = metadata(variant("essa_ssa", {"network": "unetr", "method": "lora"}, WIDTH))
    assert written["name"] == "my_bundle"
    assert written["description"].endswith(
        " This is a variant of ESSA self-supervised adaptation 0.1.0: network unetr, method lora."
    )


def test_labels_name_the_channels_of_the_output(variant) -> None:
    labels = {"background": 0, "spleen": 1, "liver": 2}
    written = metadata(variant("essa_segmentation", {}, WIDTH | {"feature_size": 4, "labels": labels}))
    pred = written["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {"0": "background", "1": "spleen", "2": "liver"}
    assert pred["num_channels"] == 3
    assert written["label_classes"] == "single channel data, 0 is background, 1 is spleen, 2 is liver"


def test_more_input_channels_are_named(variant) -> None:
    written = metadata(variant("essa_ssa", {}, WIDTH | {"in_channels": 2}))
    image = written["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], list(image["channel_def"])) == (2, ["0", "1"])


@pytest.mark.parametrize(("intensity", "modality"), [("ct_lung", "CT"), ("mr", "MR"), ("us", "US")])
def test_the_intensity_decides_modality_and_image_classes(intensity: str, modality: str, variant) -> None:
    written = metadata(variant("essa_ssa", {"intensity": intensity}, WIDTH))
    assert written["network_data_format"]["inputs"]["image"]["modality"] == modality
    first = (bundle_folder("essa_ssa") / "configs" / f"intensity_{intensity}.yaml").read_text().splitlines()[0]
    classes = written["image_classes"].removeprefix("single channel data; ")
    assert first.startswith(f"# {classes}") and len(classes) > 20


def test_a_bundle_with_weights_does_not_say_that_it_has_none(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle_folder("essa_ssa"), tmp_path / "bundle"))
    (folder / "models").mkdir()
    (folder / "models" / "model.pt").touch()
    write_variant(folder, {}, WIDTH)
    write_metadata(folder, "my_bundle", {})
    assert "holds no weights" in metadata(bundle_folder("essa_ssa"))["description"]
    assert "holds no weights" not in metadata(folder)["description"]


@pytest.mark.parametrize("name", ["$__import__('os').getcwd()", "@network_def", "%x.yaml", "a\nb"])
def test_a_label_name_that_monai_would_run_is_refused(name: str, variant: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="^the label names of the bundle"):
        variant("essa_segmentation", {}, WIDTH | {"feature_size": 4, "labels": {"background": 0, name: 1}})
