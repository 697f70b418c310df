# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for finding volumes in a folder tree."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monai_essa.data.readers.folder import find_pictures, find_volumes

SeriesWriter = Callable[..., np.ndarray]


def test_files_and_dicom_folders_are_found_and_others_passed_over(tmp_path: Path, write_series: SeriesWriter) -> None:
    for name in ("b/x_T1.nii.gz", "a.nrrd", "notes.txt", ".hidden.nii", "a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not read")
    write_series(tmp_path / "p1" / "series", [0.0, 2.0, 4.0])
    found = find_volumes(tmp_path)
    assert [volume.name for volume in found] == ["a.nrrd", "b/x_T1.nii.gz", "p1/series"]
    assert [volume.slices for volume in found] == [0, 0, 3]
    assert found[1].series == "t1"


def test_series_of_one_file_name_share_the_study(tmp_path: Path) -> None:
    for name in ("p1_T1.nii", "p1_FLAIR.nii", "p2_T1.nii", "p1_L.nii"):
        (tmp_path / name).touch()
    study = {volume.name: volume.study for volume in find_volumes(tmp_path)}
    assert study["p1_T1.nii"] == study["p1_FLAIR.nii"]
    assert len(set(study.values())) == 3


def test_several_series_in_a_folder_are_named_by_a_file(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 2.0], series="1.2.3.1")
    write_series(tmp_path, [0.0, 2.0, 4.0], series="1.2.3.2")
    found = find_volumes(tmp_path)
    assert [volume.name for volume in found] == ["1.2.3.1.001", "1.2.3.2.001"]
    assert found[0].study == found[1].study


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_volumes(tmp_path / "gone")


def test_every_real_odd_file_is_found(data_dir: Path) -> None:
    found = find_volumes(data_dir / "odd-files")
    assert sum(volume.slices > 0 for volume in found) == 3
    assert len(found) == 28
    by_name = {volume.name: volume for volume in found}
    t1, flair = by_name["dicom_mr_oblique_t1post"], by_name["dicom_mr_oblique_flair_same_subject"]
    assert t1.study == flair.study
    assert t1.patient == flair.patient != ""


def test_pictures_are_found_where_there_are_no_volumes(tmp_path: Path) -> None:
    for name in ("images/a.png", "images/b.JPG", "images/c.tif", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [volume.name for volume in find_volumes(tmp_path)] == ["images/a.png", "images/b.JPG", "images/c.tif"]
    (tmp_path / "scan.nii").touch()
    assert [volume.name for volume in find_volumes(tmp_path)] == ["scan.nii"]
    assert len(find_pictures(tmp_path)) == 3


def test_a_pipe_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    os.mkfifo(tmp_path / "b")
    assert find_volumes(tmp_path) == ()
