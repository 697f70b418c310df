# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A variant's configs are those of the bundle with the overlays and values merged over them."""

from __future__ import annotations

import shutil
from itertools import cycle
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigParser

from monai_essa.bundling.copy import write_variant
from monai_essa.bundling.folder import OVERLAYS, bundle_folder, overlay_names


def choices(bundle: str) -> list[dict[str, str]]:
    """Choices of several overlays at once; each overlay of the bundle, and each kind left out, is in one of them."""
    names = {kind: [*overlay_names(bundle_folder(bundle), kind), ""] for kind in OVERLAYS}
    turns = {kind: cycle(each) for kind, each in names.items()}
    drawn = [{kind: next(turn) for kind, turn in turns.items()} for _ in range(max(map(len, names.values())))]
    return [{kind: name for kind, name in each.items() if name} for each in drawn]


CHOICES = [(bundle, overlays) for bundle in ("essa_ssa", "essa_segmentation") for overlays in choices(bundle)]


def merged(bundle: str, *names: str) -> dict:
    return ConfigParser.load_config_files([str(bundle_folder(bundle) / "configs" / f"{name}.yaml") for name in names])


def read(folder: Path, name: str) -> dict:
    return yaml.safe_load((folder / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def copied(tmp_path: Path):
    return lambda bundle: Path(shutil.copytree(bundle_folder(bundle), tmp_path / bundle))


@pytest.mark.parametrize(
    ("bundle", "overlays"), CHOICES, ids=lambda value: value if isinstance(value, str) else "-".join(value.values())
)
def test_train_is_what_monai_merges(bundle: str, overlays: dict[str, str], copied) -> None:
    folder = copied(bundle)
    write_variant(folder, overlays, {})
    names = [f"{kind}_{overlays[kind]}" for kind in OVERLAYS if kind in overlays]
    # As MONAI reads it: an overlay may name an entry within another one, as "train#preprocessing".
    assert ConfigParser.load_config_files([str(folder / "configs" / "train.yaml")]) == merged(bundle, "train", *names)


@pytest.mark.parametrize(
    ("bundle", "network", "over"),
    [
        ("essa_segmentation", "unetr", ["network_unetr"]),
        ("essa_segmentation", "swin_unetr", ["network_swin_unetr"]),
        ("essa_ssa", "vit", []),
        ("essa_ssa", "unetr", []),  # whose model.pt is the same ViT
        ("essa_ssa", "swin_unetr", ["inference_swin_unetr"]),
        ("essa_segmentation", "segresnet", ["network_segresnet"]),
        ("essa_ssa", "segresnet", ["inference_segresnet"]),
        ("essa_ssa", "resnet", ["inference_resnet"]),
    ],
)
def test_inference_runs_the_network_that_the_training_hands_over(
    bundle: str, network: str, over: list[str], copied
) -> None:
    folder = copied(bundle)
    write_variant(folder, {"network": network, "intensity": "ct"}, {})
    expected = merged(bundle, "inference", *over)
    expected["intensity"] = read(folder, "intensity_ct")["intensity"]
    assert read(folder, "inference") == expected


@pytest.mark.parametrize("bundle", ["essa_ssa", "essa_segmentation"])
def test_inference_never_comes_to_name_monai_essa(bundle: str, copied) -> None:
    folder = copied(bundle)
    write_variant(folder, {"intensity": "mr", "method": "lora"}, {})
    assert read(folder, "inference") == merged(bundle, "inference")


def test_values_go_into_every_config_that_has_the_key(copied) -> None:
    folder = copied("essa_segmentation")
    values = {"img_size": [64, 64, 64], "labels": {"background": 0, "spleen": 1}, "max_epochs": 7}
    write_variant(folder, {"network": "swin_unetr"}, values | {"feature_size": 12})
    train, inference = read(folder, "train"), read(folder, "inference")
    assert {key: train[key] for key in values} == values
    assert {key: inference[key] for key in ("img_size", "labels")} == {
        key: values[key] for key in ("img_size", "labels")
    }
    assert "max_epochs" not in inference
    assert train["feature_size"] == inference["feature_size"] == 12  # over the overlay's


def test_comments_of_untouched_entries_stay(copied) -> None:
    folder = copied("essa_ssa")
    before = (folder / "configs" / "train.yaml").read_text(encoding="utf-8")
    write_variant(folder, {}, {"spacing": [2.0, 2.0, 2.0]})
    after = (folder / "configs" / "train.yaml").read_text(encoding="utf-8")
    changed = [line for line in before.splitlines() if line not in after.splitlines()]
    assert [line.partition(":")[0] for line in changed if not line.startswith("#")] == ["spacing"]


def test_the_overlays_that_would_make_it_another_network_go(copied) -> None:
    folder = copied("essa_ssa")
    write_variant(folder, {"network": "vit"}, {})
    assert overlay_names(folder, "network") == overlay_names(folder, "inference") == []
    assert overlay_names(folder, "method") == overlay_names(bundle_folder("essa_ssa"), "method")
    assert "network_*.yaml" not in (folder / "configs" / "train.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("overlays", "values", "message"),
    [
        ({"network": "vit"}, {}, "--network vit: the bundle has segresnet, swin_unetr, swin_unetr_v2, unetr"),
        ({"objective": "mae"}, {}, "--objective mae: the bundle has no choice of objective"),
        ({}, {"image_size": 3}, "--args image_size: train.yaml has no such key; did you mean img_size"),
        ({}, {"nonsense#a": 3}, "give a top-level key of train.yaml"),
    ],
)
def test_what_the_bundle_lacks_is_refused(overlays: dict, values: dict, message: str, copied) -> None:
    with pytest.raises(ValueError, match=message):
        write_variant(copied("essa_segmentation"), overlays, values)
