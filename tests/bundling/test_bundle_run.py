# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A copy with a run takes what the run was made with, and nothing that would be code to MONAI."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from monai_essa.bundling.copy import BundleVariant, copy_bundle
from monai_essa.bundling.finished_run import run_overlays, run_values
from monai_essa.bundling.folder import bundle_folder
from monai_essa.engines import setting_fingerprints

SEGMENTATION = bundle_folder("essa_segmentation")


@pytest.fixture
def run(segmentation_runs, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a finished run's folder, with other settings."""

    def make(**settings: Any) -> Path:
        folder = Path(shutil.copytree(segmentation_runs[0], tmp_path / "run"))
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        record["settings"] |= settings
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
        return folder

    return make


def test_nothing_has_to_be_typed_again(segmentation_runs, tmp_path: Path) -> None:
    folder = copy_bundle(SEGMENTATION, tmp_path, BundleVariant("ball", run=segmentation_runs[0]))
    train, inference = (
        yaml.safe_load((folder / "configs" / name).read_text(encoding="utf-8"))
        for name in ("train.yaml", "inference.yaml")
    )
    for config in (train, inference):
        assert config["labels"] == {"background": 0, "ball": 1}
        assert (config["img_size"], config["hidden_size"], config["feature_size"]) == ([32, 32, 32], 48, 4)
    assert train["method"] == {"_target_": "monai_essa.methods.APLA", "columns": None, "seed": 0}
    assert train["start"] == "encoder"  # of its own model.pt
    assert (folder / "models" / "model.pt").is_file()
    assert not [path for path in (folder / "configs").iterdir() if "make bundles" in path.read_text(encoding="utf-8")]


def test_the_orientation_of_a_run_is_that_of_its_bundle(run: Callable[..., Path], tmp_path: Path) -> None:
    folder = run(axcodes="SPL")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record["config"] |= setting_fingerprints({"orientation": {"axcodes": "SPL"}})
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    bundle = copy_bundle(SEGMENTATION, tmp_path, BundleVariant("ball", run=folder))
    for name in ("train.yaml", "inference.yaml"):
        assert yaml.safe_load((bundle / "configs" / name).read_text(encoding="utf-8"))["axcodes"] == "SPL"
    with pytest.raises(ValueError, match="was made with another axcodes than"):
        copy_bundle(SEGMENTATION, tmp_path, BundleVariant("other", values={"axcodes": "RAS"}, run=folder))


def test_what_is_typed_wins(segmentation_runs, tmp_path: Path) -> None:
    variant = BundleVariant("ball", values={"lr": 2.0e-3}, run=segmentation_runs[0])
    folder = copy_bundle(SEGMENTATION, tmp_path, variant)
    assert yaml.safe_load((folder / "configs" / "train.yaml").read_text(encoding="utf-8"))["lr"] == 2.0e-3


def test_an_overlay_that_is_chosen_wins_with_all_its_keys(segmentation_runs, tmp_path: Path) -> None:
    variant = BundleVariant("ball", {"method": "full"}, run=segmentation_runs[0])
    folder = copy_bundle(SEGMENTATION, tmp_path, variant)
    train, overlay = (
        yaml.safe_load((configs / name).read_text(encoding="utf-8"))
        for configs, name in ((folder / "configs", "train.yaml"), (SEGMENTATION / "configs", "method_full.yaml"))
    )
    assert {key: train[key] for key in overlay} == overlay


@pytest.mark.parametrize(
    ("settings", "overlays"),
    [
        ({}, {"method": "apla"}),
        ({"network_def": "SwinUNETR"}, {"network": "swin_unetr", "method": "apla"}),
        ({"intensity_name": "ct_lung"}, {"intensity": "ct_lung", "method": "apla"}),
        ({"intensity_name": "of a site"}, {"method": "apla"}),
    ],
)
def test_overlays_are_found_by_what_they_choose(
    settings: dict[str, Any], overlays: dict[str, str], run: Callable[..., Path]
) -> None:
    assert run_overlays(SEGMENTATION, run(**settings)) == overlays


def test_images_in_two_dimensions_are_found_by_their_size(run: Callable[..., Path]) -> None:
    folder = run(img_size=[28, 28], intensity_name="z_score", encoder_def="ViT", loss="BCEWithLogitsLoss")
    assert run_overlays(bundle_folder("essa_classification"), folder) == {
        "images": "2d",
        "loss": "bce",
        "method": "apla",
    }


@pytest.mark.parametrize("code", ["$1", "@network", "%train.yaml", {"_target_": "os.system"}])
def test_what_would_be_code_is_refused(code: Any, run: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="run.json, 'settings'"):
        run_values(SEGMENTATION, run(spacing=code))


def test_only_what_the_bundle_records_is_taken(run: Callable[..., Path]) -> None:
    values = run_values(SEGMENTATION, run(output_dir="elsewhere", lr=2.0e-3))
    assert values["lr"] == 2.0e-3 and "output_dir" not in values


@pytest.mark.parametrize("settings", [3, "img_size", [{"img_size": [28, 28]}], None])
def test_settings_that_are_no_mapping_are_refused(settings: Any, run: Callable[..., Path]) -> None:
    folder = run()
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps(record | {"settings": settings}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^\S+run.json, 'settings': expected values by name, got"):
        run_overlays(SEGMENTATION, folder)


def test_a_size_that_is_no_list_chooses_no_overlay(run: Callable[..., Path]) -> None:
    assert run_overlays(bundle_folder("essa_classification"), run(img_size=28)) == {"method": "apla"}


def test_a_run_of_an_earlier_version_leaves_the_values_to_the_user(run: Callable[..., Path]) -> None:
    folder = run()
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    del record["settings"]
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert run_values(SEGMENTATION, folder).keys() == {"method"}
