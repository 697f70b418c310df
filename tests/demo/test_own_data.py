# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A folder of one's own: who is trained on is never tested on, and the scans fit the crop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_essa.data import load_datalist, unlabelled_items
from monai_essa.demo.cohort import CohortSize
from monai_essa.demo.data import DemoData, own_data

SIZE = CohortSize(training=3, validation=2, test=4)
CROP = (16, 16, 16)


def derive(folder: Path, seed: int = 0) -> DemoData:
    return own_data(folder, folder.parent / "datalist.json", SIZE, CROP, seed)


def names(data: DemoData, section: str) -> set[str]:
    return {Path(item["image"]).name for item in unlabelled_items(data.datalist, data.sections[section])}


def test_test_and_validation_cases_are_held_out_of_training(msd_folder: Callable[..., Path]) -> None:
    data = derive(msd_folder(training=30))

    assert (len(names(data, "test")), len(names(data, "validation"))) == (4, 2)
    assert not names(data, "unlabeled") & (names(data, "test") | names(data, "validation"))
    assert not names(data, "test") & names(data, "validation")
    assert names(data, "training") < names(data, "unlabeled")


def test_sections_of_the_folder_are_kept(msd_folder: Callable[..., Path]) -> None:
    data = derive(msd_folder(training=5, validation=3, testing=6))

    assert all(name.startswith("testing") for name in names(data, "test"))
    assert all(name.startswith("validation") for name in names(data, "validation"))
    assert len(names(data, "unlabeled")) == 5


def test_a_test_section_without_labels_is_not_used(msd_folder: Callable[..., Path]) -> None:
    folder = msd_folder(training=20)
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    content["test"] = ["images/training0_scan.nii.gz"]
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")

    assert len(names(derive(folder), "test")) == 4


def test_the_seed_decides(msd_folder: Callable[..., Path]) -> None:
    folder = msd_folder(training=20)

    assert names(derive(folder), "training") == names(derive(folder), "training")
    assert names(derive(folder, seed=1), "training") != names(derive(folder), "training")


def test_the_median_scan_fits_the_crop_and_voxels_are_never_finer(msd_folder: Callable[..., Path]) -> None:
    # Stored as (superior, right, anterior): 48 x 8 x 16 voxels of 1 x 3 x 0.5 mm.
    affine = np.array([[0, 3, 0, 0], [0, 0, 0.5, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    data = derive(msd_folder(shape=(48, 8, 16), affine=affine, training=12))

    assert data.card.spacing == (3.0, 0.5, 48 / 16)


@pytest.mark.parametrize(
    "labels", [{"0": "background", "1": "liver"}, {"background": 0, "liver": 1}, ["background", "liver"]]
)
def test_every_way_to_write_labels_is_read(msd_folder: Callable[..., Path], labels: Any) -> None:
    data = derive(msd_folder(training=12, keys={"labels": labels}))

    assert list(data.card.labels.items()) == [("background", 0), ("liver", 1)]


@pytest.mark.parametrize("labels", [None, {}, {"0": "background", "2": "liver"}, {"0": "a", "1": "a"}, "liver"])
def test_labels_that_are_not_numbered_through_are_refused(msd_folder: Callable[..., Path], labels: Any) -> None:
    with pytest.raises(ValueError, match="dataset.json.* expected .*labels|dataset.json, field 'labels': expected"):
        derive(msd_folder(training=12, keys={"labels": labels}))


def test_too_few_cases_are_refused(msd_folder: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="expected 3 labelled cases to train on, got 2"):
        derive(msd_folder(training=2, validation=1, test=1))


def test_a_folder_without_a_datalist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such datalist"):
        derive(tmp_path)


@pytest.mark.parametrize(("modality", "intensity"), [({"0": "CT"}, "ct"), ({"0": "MRI"}, "mr"), (None, "mr")])
def test_the_modality_chooses_the_intensities(msd_folder: Callable[..., Path], modality: Any, intensity: str) -> None:
    assert derive(msd_folder(training=12, keys={"modality": modality})).card.intensity == intensity


def test_each_modality_is_a_channel(msd_folder: Callable[..., Path]) -> None:
    modality = {"0": "FLAIR", "1": "T1w"}
    assert derive(msd_folder(training=12, keys={"modality": modality})).card.in_channels == 2


def test_real_scans_keep_their_millimetres(hippocampus_tiny: Path, tmp_path: Path) -> None:
    data = own_data(hippocampus_tiny, tmp_path / "datalist.json", CohortSize(), (48, 64, 48), seed=0)

    assert data.card.spacing == (1.0, 1.0, 1.0)
    assert [len(names(data, name)) for name in ("source", "unlabeled", "validation", "test")] == [10, 10, 2, 3]
    assert len(load_datalist(data.datalist, "training")) == 3
