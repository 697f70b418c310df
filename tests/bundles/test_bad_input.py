# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Bad data and values: a run ends in one line that names the file or the key, and leaves earlier outputs alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

RunBundle = Callable[..., ConfigWorkflow]
Refused = Callable[..., str]
Datalist = Callable[..., Path]

FULL = {"_target_": "monai_essa.methods.FullTuning"}
START = {"essa_ssa": {"method": FULL}, "essa_segmentation": {"method": FULL, "start": "random"}}
BUNDLES = sorted(START)

GRID = (36, 34, 40)
NOISE = np.random.default_rng(0).normal(300, 50, GRID).astype(np.float32)
WITH_NAN = np.where(NOISE == NOISE.max(), np.nan, NOISE)
LABEL = (NOISE > 320).astype(np.uint8)
SHIFT = np.array([[1, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float)


@pytest.fixture
def datalist(volumes: Path, tmp_path: Path) -> Datalist:
    """Writes a data list over the fabricated volumes of which the first training item has another image or label."""

    def path(value: Any) -> str:
        if isinstance(value, str):
            return str(volumes / value)
        array, affine = value if isinstance(value, tuple) else (value, np.eye(4))
        nib.save(nib.Nifti1Image(array, affine), tmp_path / "bad.nii.gz")
        return str(tmp_path / "bad.nii.gz")

    def write(image: Any = "image_00.nii.gz", label: Any = "label_00.nii.gz") -> Path:
        good = {"image": path("image_01.nii.gz"), "label": path("label_01.nii.gz")}
        sections = {"training": [{"image": path(image), "label": path(label)}, good], "validation": [good]}
        (tmp_path / "dataset.json").write_text(json.dumps(sections), encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("image_99.nii.gz", r"dataset.json: training item 0.image: \S+image_99.nii.gz does not exist .*correct the pa"),
        (WITH_NAN, r"\S+bad.nii.gz: some voxels are NaN or infinite; repair or leave out the file"),
        (np.full(GRID, 7, np.int16), r"\S+bad.nii.gz: every voxel is 7; leave out the file"),
        (np.stack([NOISE, NOISE], -1), r"\S+bad.nii.gz: expected in_channels=1, got 2 .*split the file or set in_chan"),
    ],
    ids=["missing", "NaN", "constant", "4-D"],
)
def test_a_bad_image_is_named(bundle: str, image: Any, expected: str, datalist: Datalist, refused: Refused) -> None:
    assert re.search(expected, refused(bundle, dataset_dir=datalist(image), **START[bundle]))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("label_99.nii.gz", r"training item 0.label: \S+label_99.nii.gz does not exist"),
        (LABEL[1:], r"\S+bad.nii.gz: expected the image's shape \(1, 36, 34, 40\), got \(1, 35, 34, 40\); resample"),
        ((LABEL, SHIFT), r"\S+bad.nii.gz: expected the image's affine, got one that moves a corner by 4.0 voxels; "),
        (7 * LABEL, r"\S+bad.nii.gz: expected ids 0 to 2, got 7; correct the label or the number of classes"),
        (NOISE, r"\S+bad.nii.gz: expected ids 0, 1, 2 \.\.\., got \d+\.\d+; resample labels"),
    ],
    ids=["missing", "shape", "affine", "ids", "no ids"],
)
def test_a_bad_label_is_named(label: Any, expected: str, datalist: Datalist, refused: Refused) -> None:
    line = refused("essa_segmentation", dataset_dir=datalist(label=label), **START["essa_segmentation"])
    assert re.search(expected, line)


def test_a_validation_without_foreground_is_refused_before_the_first_step(
    datalist: Datalist, refused: Refused, tmp_path: Path
) -> None:
    folder = datalist(label=0 * LABEL)
    listed = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    swapped = {"training": listed["validation"], "validation": listed["training"][:1]}
    (folder / "dataset.json").write_text(json.dumps(swapped), encoding="utf-8")
    line = refused("essa_segmentation", dataset_dir=folder, **START["essa_segmentation"])
    assert "section 'validation': no label holds foreground" in line


def test_a_bad_image_is_named_by_worker_processes_too(datalist: Datalist, refused: Refused) -> None:
    line = refused("essa_ssa", dataset_dir=datalist(WITH_NAN), num_workers=1, hold_out=3, **START["essa_ssa"])
    assert re.fullmatch(r"error: \S+bad.nii.gz: some voxels are NaN or infinite; repair or leave out the file", line)


def test_a_repaired_data_list_runs_in_the_same_folder(
    datalist: Datalist, refused: Refused, run_bundle: RunBundle, tmp_path: Path
) -> None:
    refused("essa_ssa", dataset_dir=datalist(WITH_NAN), **START["essa_ssa"])
    values = {"dataset_dir": datalist(), "output_dir": tmp_path / "run"}
    run_bundle("essa_ssa", "train.yaml", **values, **START["essa_ssa"])
    assert (tmp_path / "run" / "model.pt").read_bytes() != b"earlier"


@pytest.mark.parametrize("bundle", BUNDLES)
def test_volumes_smaller_than_the_patch_are_padded(
    bundle: str, datalist: Datalist, run_bundle: RunBundle, tmp_path: Path
) -> None:
    folder = datalist(NOISE[:20, :30, :25], "label_00.nii.gz")
    label = nib.Nifti1Image(LABEL[:20, :30, :25], np.eye(4))
    nib.save(label, tmp_path / "small_label.nii.gz")
    item = {"image": str(tmp_path / "bad.nii.gz"), "label": str(tmp_path / "small_label.nii.gz")}
    (folder / "dataset.json").write_text(json.dumps({"training": [item], "validation": [item]}), encoding="utf-8")
    run_bundle(bundle, "train.yaml", dataset_dir=folder, output_dir=tmp_path / "run", **START[bundle])
    assert (tmp_path / "run" / "model.pt").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"dataset.json: no such datalist; `monai-essa data datalist DIR` makes one"),
        ('{"training": [], "validation": []}', r"dataset.json: section 'training' is empty"),
        ('{"testing": []}', r"dataset.json: no section 'training'; it has testing"),
        ("{", r"dataset.json: expected a JSON datalist, got .*; correct the file"),
    ],
    ids=["missing", "empty", "section", "damaged"],
)
@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_bad_data_list_is_named(
    bundle: str, content: str | None, expected: str, refused: Refused, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content, encoding="utf-8")
    assert re.search(expected, refused(bundle, dataset_dir=tmp_path, **START[bundle]))


UNFIT_VALUES = {
    "channels": ("essa_ssa", {"in_channels": 2}, r"image_\d\d.nii.gz: expected in_channels=2, got 1 .*set in_channels"),
    "channels of labelled": (
        "essa_segmentation",
        {"in_channels": 2},
        r"image_\d\d.nii.gz: expected in_channels=2, got 1",
    ),
    "crop": ("essa_ssa", {"img_size": [40, 32, 32]}, r"img_size \[40, 32, 32\]: .*set \[48, 32, 32\]"),
    "crop of labelled": (
        "essa_segmentation",
        {"img_size": [40, 32, 32]},
        r"img_size \[40, 32, 32\]: .*set \[48, 32, 32",
    ),
    "one patch": ("essa_ssa", {"img_size": [16, 16, 16]}, r"img_size \[16, 16, 16\]: .*set \[32, 32, 32\]"),
    "limit": ("essa_segmentation", {"limit": 50}, r"limit=50: expected 1 to 4, the number of items in 'training'"),
    "labels": ("essa_segmentation", {"labels": {"background": 0}}, r"label_\d\d.nii.gz: expected ids 0 to 0, got 2"),
    "switch": (
        "essa_ssa",
        {"weight_foreground": "false"},
        r"weight_foreground: expected True or False, got 'false'; wr",
    ),
    "switch of a decoder": (
        "essa_ssa",
        {"own_decoder": "true"},
        r"own_decoder: expected True or False, got 'true'; wr",
    ),
    "interval": (
        "essa_segmentation",
        {"val_interval": 5, "max_epochs": 2},
        r"val_interval: expected .* 1 to max_epochs",
    ),
    "interval of SSA": ("essa_ssa", {"val_interval": 5, "max_epochs": 2}, r"val_interval: expected a whole number"),
    "precision": ("essa_ssa", {"precision": "fp8"}, r"precision must be one of fp32, bf16, fp16, got 'fp8'"),
}


@pytest.mark.parametrize(("bundle", "values", "expected"), UNFIT_VALUES.values(), ids=UNFIT_VALUES)
def test_a_value_that_does_not_fit_is_named(
    bundle: str, values: dict[str, Any], expected: str, volumes: Path, refused: Refused
) -> None:
    assert re.search(expected, refused(bundle, dataset_dir=volumes, **START[bundle], **values))
