# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A bundle of the model zoo is data: literals and references to literals, a class of MONAI, and nothing that runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.networks.nets import SegResNet, SwinUNETR, UNet

from monai_essa import load_weights
from monai_essa.licence import kept_card
from monai_essa.weights import read_zoo_bundle, resolve_pretrained, zoo_network

# As the published bundles write it: short class names, references, an argument that MONAI no longer takes.
CONFIG: dict[str, Any] = {
    "imports": ["$import glob"],
    "dataset_dir": "$__import__('os').system('touch ran')",
    "channels": 1,
    "pixdim": [1.5, 1.5, 2.0],
    "network_def": {
        "_target_": "SwinUNETR",
        "spatial_dims": 3,
        "img_size": [96, 96, 96],
        "in_channels": "@channels",
        "out_channels": 3,
        "feature_size": 12,
        "use_checkpoint": True,
    },
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": "@pixdim", "mode": "bilinear"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -175, "a_max": 250, "b_min": 0, "b_max": 1},
        ],
    },
}
METADATA = {
    "name": "Organs",
    "version": "0.5.1",
    "network_data_format": {"outputs": {"pred": {"channel_def": {"0": "background", "1": "liver", "2": "spleen"}}}},
}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a bundle with a changed config."""

    def write(suffix: str = ".json", **changes: Any) -> Path:
        (tmp_path / "organs" / "configs").mkdir(parents=True)
        dump = json.dumps if suffix == ".json" else yaml.safe_dump
        configs = tmp_path / "organs" / "configs"
        (configs / f"inference{suffix}").write_text(dump(CONFIG | changes), encoding="utf-8")
        (configs / "metadata.json").write_text(json.dumps(METADATA), encoding="utf-8")
        return tmp_path / "organs"

    return write


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_network_images_and_labels_are_read_and_nothing_runs(
    suffix: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make(suffix)
    bundle, network = read_zoo_bundle(folder), zoo_network(folder)
    assert isinstance(network, SwinUNETR)
    assert network.out.conv.conv.weight.shape[:2] == (3, 12)
    assert bundle.card == {"axcodes": "RAS", "spacing": [1.5, 1.5, 2.0], "window": [-175, 250]}
    assert bundle.labels == {"0": "background", "1": "liver", "2": "spleen"}
    assert bundle.title == "Organs 0.5.1"
    assert not (tmp_path / "ran").exists()


def test_its_weights_are_loaded_with_their_card(make: Make) -> None:
    folder = make()
    source, network = zoo_network(folder), zoo_network(folder)
    (folder / "models").mkdir()
    torch.save(source.state_dict(), folder / "models" / "model.pt")
    report = load_weights(network, f"bundle:{folder}")
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in source.state_dict().items())
    assert report.origin is not None and report.origin["family"] == "Organs 0.5.1"
    assert "licence what LICENSE of the bundle Organs 0.5.1 says" in str(report)
    assert kept_card(network)["axcodes"] == "RAS"


def test_a_bundle_without_its_weights_says_where_they_are(make: Make) -> None:
    with pytest.raises(FileNotFoundError, match="model.pt: no such file; the model zoo keeps large files apart"):
        resolve_pretrained(f"bundle:{make()}")


@pytest.mark.parametrize("value", ["$len(@labels)", "@labels", "%train.json#x", {"_target_": "os.getcwd"}, "@again"])
def test_what_is_computed_is_asked_for_by_its_name(value: Any, make: Make) -> None:
    folder = make(network_def=CONFIG["network_def"] | {"out_channels": value}, again="@again")
    with pytest.raises(ValueError, match="give .*=VALUE") as caught:
        zoo_network(folder)
    assert "\n" not in str(caught.value)
    network = zoo_network(folder, {"network_def#out_channels": 3})
    assert isinstance(network, SwinUNETR)


def test_a_reference_to_what_is_computed_is_asked_for_where_it_is_computed(make: Make) -> None:
    folder = make(channels="$1")
    with pytest.raises(ValueError, match=r"channels is computed \('\$1'\), and nothing is evaluated; give channels="):
        zoo_network(folder)
    assert isinstance(zoo_network(folder, {"channels": 1}), SwinUNETR)


@pytest.mark.parametrize("target", ["os.system", "monai.networks.nets.swin_unetr.os", "torch.nn.Linear", "ViTT", ""])
def test_a_class_from_elsewhere_is_refused(target: str, make: Make) -> None:
    folder = make(network_def={"_target_": target, "command": "touch ran"})
    with pytest.raises(ValueError, match="expected a class of monai.networks.nets"):
        zoo_network(folder)


@pytest.mark.parametrize(
    ("network", "match"),
    [
        ({"_target_": "SegResNet", "wonders": 3}, "SegResNet of this MONAI takes no 'wonders'"),
        ({"_target_": "SegResNet", "init_filters": 10**9}, "network_def#init_filters: expected a number"),
        ({"_target_": "SegResNet", "init_filters": 7}, "SegResNet refuses its network_def"),
        ({"spatial_dims": 3}, "expected 'network_def' with '_target_'"),
        (3, "expected 'network_def' with '_target_'"),
    ],
)
def test_unsound_arguments_are_refused_on_one_line(network: Any, match: str, make: Make) -> None:
    folder = make(network_def=network)
    with pytest.raises(ValueError, match=match) as caught:
        zoo_network(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [SegResNet, UNet])
def test_full_class_paths_are_known(kind: type, make: Make) -> None:
    sizes = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    sizes |= {"init_filters": 8} if kind is SegResNet else {"channels": [4, 8], "strides": [2]}
    target = f"monai.networks.nets.{kind.__name__}"
    assert isinstance(zoo_network(make(network_def={"_target_": target, **sizes})), kind)


def test_an_expression_in_the_transforms_leaves_the_card_open(make: Make) -> None:
    card = read_zoo_bundle(make(pixdim="$[1.0] * 3")).card
    assert "spacing" not in card and card["axcodes"] == "RAS"


@pytest.mark.parametrize("text", ["", "[1]", "{", "3"])
def test_a_damaged_config_is_refused(text: str, make: Make) -> None:
    folder = make()
    (folder / "configs" / "inference.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="inference.json"):
        read_zoo_bundle(folder)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no bundle"):
        resolve_pretrained(f"bundle:{tmp_path}")


def test_a_config_that_aliases_make_endless_is_refused(tmp_path: Path) -> None:
    levels = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 18)]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.yaml").write_text("\n".join(levels), encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.yaml has more than 100,000 entries; expected a config"):
        read_zoo_bundle(tmp_path)
