# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for what file names say about case, series and patient."""

from __future__ import annotations

import pytest

from monai_essa.data.pairing.names import (
    case_of,
    folders_of,
    is_label_path,
    leading_id,
    patient_of,
    series_of,
    subject_of,
    volume_stem,
)


@pytest.mark.parametrize(
    ("path", "stem"),
    [("a/b.nii.gz", "b"), ("b.seg.nrrd", "b"), ("b.MHA", "b"), ("CT.1.2.840.3", "CT.1.2.840.3"), ("b.v2.nii", "b.v2")],
)
def test_only_the_suffix_of_a_volume_is_cut(path: str, stem: str) -> None:
    assert volume_stem(path) == stem


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("brain1_image.nrrd", "brain1_label.nrrd"),
        ("sub-spleen2_ct.nii.gz", "sub-spleen2_ct_seg-manual.nii.gz"),
        ("liver_7_0000.nii.gz", "liver_7.nii.gz"),
        ("subvolume.nrrd", "subvolume-label.nrrd"),
        ("p1/image.nii", "p1/seg.nii"),
        ("hippocampus_001.nii.gz", "hippocampus_001.nii.gz"),
    ],
)
def test_an_image_and_its_label_are_one_case(image: str, label: str) -> None:
    assert case_of(image) == case_of(label)


def test_a_number_is_part_of_the_case() -> None:
    assert case_of("case_0001.nii") == "case_0001"


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("labelsTr/a.nii", True),
        ("p1/masks/a.nii", True),
        ("p1/seg.nii.gz", True),
        ("a_dseg.nii", True),
        ("imagesTr/a.nii", False),
        ("labelled_study/a.nii", False),
        ("segovia.nii", False),
    ],
)
def test_labels_are_known_by_folder_or_ending(path: str, label: bool) -> None:
    assert is_label_path(path) is label


@pytest.mark.parametrize(
    ("path", "series"),
    [
        ("p1_T1.nii", "t1"),
        ("sub-1_run-2_T1w.nii", "run-2_t1w"),
        ("t1ce.nii", "t1ce"),
        ("p1_L.nii", ""),
        ("act1.nii", ""),
    ],
)
def test_the_series_is_the_end_of_the_name(path: str, series: str) -> None:
    assert series_of(path) == series


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("IXI012-HH-1211_R.nii.gz", "IXI012-HH-1211"),
        ("BraTS20_Training_001_t1ce.nii.gz", "BraTS20_Training_001"),
        ("OAS1_0001_MR1_T1.nii", "OAS1_0001"),
        ("p7_visit2_FLAIR.nii", "p7"),
        ("hippocampus_001.nii.gz", "hippocampus_001"),
        ("T1.nii", ""),
    ],
)
def test_the_leading_id_has_no_side_series_or_visit(path: str, name: str) -> None:
    assert leading_id(path) == name


def test_folders_that_say_what_lies_in_them_do_not_count() -> None:
    assert folders_of("train/imagesTr/siteA/p1/x.nii") == ("siteA", "p1")


@pytest.mark.parametrize(("path", "subject"), [("sub-07/ses-1/sub-07_T1w.nii", "sub-07"), ("subject7.nii", "")])
def test_bids_subjects_are_found(path: str, subject: str) -> None:
    assert subject_of(path) == subject


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("imagesTr/p3_L.nii", "imagesTs/p3_R.nii"),
        ("sub-07/ses-1/sub-07_T1w.nii", "sub-07/ses-2/sub-07_T2w.nii"),
        ("p3/T1.nii", "p3/FLAIR.nii"),
    ],
)
def test_two_paths_of_a_patient_give_the_same_name(one: str, other: str) -> None:
    assert patient_of(one) == patient_of(other)


@pytest.mark.parametrize(
    ("one", "other"), [("hippocampus_001.nii", "hippocampus_002.nii"), ("p3/T1.nii", "p4/T1.nii"), ("t1.nii", "t2.nii")]
)
def test_other_patients_give_other_names(one: str, other: str) -> None:
    assert patient_of(one) != patient_of(other)
