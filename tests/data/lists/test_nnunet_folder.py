# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for nnU-Net's dataset.json, which names no files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_essa.data.lists.read import load_datalist, read_datalist, section_names

CONTENT: dict[str, Any] = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "whole": [1, 2], "core": 2},
    "regions_class_order": [1, 2],
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, ending in (("imagesTr", "_0000"), ("imagesTr", "_0001"), ("labelsTr", ""), ("imagesTs", "_0000")):
        (tmp_path / part).mkdir(exist_ok=True)
        for case in "ab":
            (tmp_path / part / f"{case}{ending}.nii.gz").touch()
    for case in "ab":
        (tmp_path / "imagesTs" / f"{case}_0001.nii.gz").touch()
    (tmp_path / "imagesTr" / "._a_0000.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(json.dumps(CONTENT), encoding="utf-8")
    return tmp_path


def test_the_cases_of_the_folders_are_listed(folder: Path) -> None:
    assert section_names(read_datalist(folder / "dataset.json")) == ["training", "testing"]
    assert load_datalist(folder / "dataset.json")[1] == {
        "image": [str(folder / "imagesTr" / f"b_000{channel}.nii.gz") for channel in (0, 1)],
        "label": str(folder / "labelsTr" / "b.nii.gz"),
    }
    assert len(load_datalist(folder / "dataset.json", "testing", ("image",))) == 2


def test_one_channel_is_one_file(folder: Path) -> None:
    (folder / "dataset.json").write_text(json.dumps(CONTENT | {"channel_names": {"0": "CT"}}), encoding="utf-8")
    for file in folder.glob("*/*_0001.nii.gz"):
        file.unlink()
    assert load_datalist(folder / "dataset.json")[0]["image"] == str(folder / "imagesTr" / "a_0000.nii.gz")


def test_a_list_of_its_own_is_not_overwritten(folder: Path) -> None:
    content = CONTENT | {"training": [{"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"}]}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    assert len(load_datalist(folder / "dataset.json")) == 1


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        (
            "imagesTr/b_0001.nii.gz",
            r"dataset\.json: expected the 2 channels of channel_names for 'b' in imagesTr, got \[0\]",
        ),
        ("labelsTr/a.nii.gz", r"dataset\.json: labelsTr/a\.nii\.gz is missing"),
    ],
)
def test_a_missing_file_is_said_in_one_line(missing: str, line: str, folder: Path) -> None:
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=line):
        read_datalist(folder / "dataset.json")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(CONTENT), encoding="utf-8")
    with pytest.raises(ValueError, match=r"expected images such as imagesTr/CASE_0000\.nii\.gz beside it, found none"):
        read_datalist(tmp_path / "dataset.json")
