# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for pairing images with labels and for taking one series of a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_essa.data.case_pairs import Case, one_per_study, pair_labels
from monai_essa.data.volume_search import FoundVolume, find_volumes


def _volumes(folder: Path, *names: str) -> tuple[FoundVolume, ...]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return find_volumes(folder)


def _pairs(cases: list[Case]) -> dict[str, str | None]:
    return {case.image.name: case.label.name if case.label else None for case in cases}


def test_labels_are_found_by_stem_ending_and_series(tmp_path: Path) -> None:
    images = _volumes(tmp_path / "i", "a.nii.gz", "b_0000.nii.gz", "c_T1.nii", "d.nii")
    labels = _volumes(tmp_path / "l", "a.nii", "b.nii.gz", "c_seg.nii", "e.nii")
    cases, left_out = pair_labels(images, labels)
    assert _pairs(cases) == {"a.nii.gz": "a.nii", "b_0000.nii.gz": "b.nii.gz", "c_T1.nii": "c_seg.nii", "d.nii": None}
    assert left_out == ["e.nii: a label without an image"]


def test_the_same_name_in_several_folders_is_told_by_the_folder(tmp_path: Path) -> None:
    images = _volumes(tmp_path / "i", "p1/t1.nii", "p2/t1.nii")
    labels = _volumes(tmp_path / "l", "p1/seg.nii", "p2/seg.nii")
    assert _pairs(pair_labels(images, labels)[0]) == {"p1/t1.nii": "p1/seg.nii", "p2/t1.nii": "p2/seg.nii"}


def test_a_label_may_be_named_like_the_folder_of_its_image(tmp_path: Path) -> None:
    images = _volumes(tmp_path / "i", "p1/study/t1.nii")
    labels = _volumes(tmp_path / "l", "p1.nii")
    assert _pairs(pair_labels(images, labels)[0]) == {"p1/study/t1.nii": "p1.nii"}


def test_an_image_with_several_labels_is_left_out(tmp_path: Path) -> None:
    images = _volumes(tmp_path / "i", "a.nii", "b.nii")
    labels = _volumes(tmp_path / "l", "a_seg.nii", "a_label.nii", "b.nii")
    cases, left_out = pair_labels(images, labels)
    assert _pairs(cases) == {"b.nii": "b.nii"}
    assert left_out[0] == "a.nii: several labels fit (a_label.nii, a_seg.nii); keep one"


def test_labels_that_fit_nothing_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no label fits an image: names are like x\.nii and a\.nii"):
        pair_labels(_volumes(tmp_path / "i", "a.nii"), _volumes(tmp_path / "l", "x.nii"))


def test_the_labelled_series_is_taken(tmp_path: Path) -> None:
    images = _volumes(tmp_path / "i", "a_T1.nii", "a_T2.nii", "b_T1.nii")
    cases, left_out = one_per_study(pair_labels(images, _volumes(tmp_path / "l", "a_T2_seg.nii"))[0])
    assert _pairs(cases) == {"a_T2.nii": "a_T2_seg.nii", "b_T1.nii": None}
    assert left_out == ["a_T1.nii: a_T2.nii of the same study was taken; choose with a pattern"]


def test_without_labels_the_commonest_series_is_taken(tmp_path: Path) -> None:
    images = _volumes(tmp_path, "a_T1.nii", "a_FLAIR.nii", "b_T1.nii", "b_T2.nii", "c_T1.nii")
    assert list(_pairs(one_per_study(pair_labels(images, [])[0])[0])) == ["a_T1.nii", "b_T1.nii", "c_T1.nii"]


def test_both_sides_of_a_patient_stay(tmp_path: Path) -> None:
    images = _volumes(tmp_path, "a_L.nii", "a_R.nii")
    assert one_per_study(pair_labels(images, [])[0])[1] == []


def test_channels_of_nnunet_are_one_study_but_case_numbers_are_not(tmp_path: Path) -> None:
    channels = _volumes(tmp_path / "i", "a_0000.nii", "a_0001.nii")
    cases, left_out = one_per_study(pair_labels(channels, _volumes(tmp_path / "l", "a.nii"))[0])
    assert _pairs(cases) == {"a_0000.nii": "a.nii"}
    assert len(left_out) == 1
    numbers = _volumes(tmp_path / "n", "a_0000.nii", "a_0001.nii")
    cases, left_out = one_per_study(pair_labels(numbers, _volumes(tmp_path / "m", "a_0000.nii", "a_0001.nii"))[0])
    assert _pairs(cases) == {"a_0000.nii": "a_0000.nii", "a_0001.nii": "a_0001.nii"}
    assert left_out == []


def test_a_label_that_fits_two_studies_is_given_to_none(tmp_path: Path) -> None:
    images = _volumes(tmp_path / "i", "p1/day1/x.nii", "p1/day2/y.nii")
    cases, left_out = one_per_study(pair_labels(images, _volumes(tmp_path / "l", "p1.nii"))[0])
    assert set(_pairs(cases).values()) == {None}
    assert left_out == ["p1.nii: a label that fits 2 images; give each its own"]
