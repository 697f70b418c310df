# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for telling which cases are of one patient."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_essa.data.pairing.search import with_patients
from monai_essa.data.pairing.studies import Case
from monai_essa.data.readers.folder import FoundVolume


def _patients(*names: str, group_by: str = "folder", pattern: str | None = None) -> list[str]:
    cases = [Case((FoundVolume(Path(name), name, (), ""),), None) for name in names]
    return [case.patient for case in with_patients(cases, group_by, pattern)]


@pytest.mark.parametrize(
    "names",
    [
        ("patient001_frame01.nii", "patient001_frame12.nii", "patient001_4d.nii"),
        ("p1_ses-1_T1w.nii", "p1_ses-2_T1w.nii"),
        ("p1/visit1/t1.nii", "p1/visit2/t1.nii"),
        ("p1_tp0.nii", "p1_tp1_FLAIR.nii"),
        ("p1_slice003.nii", "p1_slice10.nii"),
        ("p1_phase2.nii", "p1_phase3.nii"),
        ("A0S9V9_ED.nii", "A0S9V9_ES.nii"),
        ("p07_baseline.nii", "p07_followup2.nii"),
        ("p07_scan1.nii", "p07_scan2.nii"),
        ("p1_time01/ct.nii", "p1_time02/ct.nii"),
        ("sub-1/ses-1/sub-1_ses-1_run-1_T1w.nii", "sub-1/ses-2/sub-1_ses-2_run-2_T1w.nii"),
    ],
)
def test_recordings_of_a_patient_are_one(names: tuple[str, ...]) -> None:
    assert len(set(_patients(*names))) == 1


@pytest.mark.parametrize(
    "names",
    [
        ("brain_scan_1.nii", "brain_scan_2.nii"),
        ("FLARE22_Tr_0001.nii", "FLARE22_Tr_0002.nii"),
        ("OAS1_0001_MR1.nii", "OAS1_0002_MR1.nii"),
        ("volume-0.nii", "volume-1.nii"),
        ("ct_scans/org_001.nii", "ct_scans/org_002.nii"),
        ("ct_scans/p1/a.nii", "ct_scans/p2/a.nii"),
        ("site1_001.nii", "site1_002.nii", "site1_003.nii", "site2_001.nii", "site2_002.nii", "site2_003.nii"),
    ],
)
def test_patients_are_not_merged(names: tuple[str, ...]) -> None:
    assert len(set(_patients(*names))) == len(names)


def test_a_second_number_counts_visits_where_few_share_the_first() -> None:
    visits = [f"BraTS-GLI-{case:05}-{visit:03}/x-t1n.nii" for case in range(4) for visit in (0, 1) if case or visit]
    assert _patients(*visits) == [f"BraTS-GLI-{case:05}" for case in (0, 1, 1, 2, 2, 3, 3)]


def test_a_pattern_overrides_folders_and_names() -> None:
    names = ("siteA/x_17_a.nii", "siteA/x_18_a.nii", "siteB/y_17_b.nii")
    assert _patients(*names, pattern=r"_(\d+)_") == ["17", "18", "17"]


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (r"(\d)(\d)", "expected one group"),
        (r"\d+", "expected one group"),
        (r"(a+)+$", "may take for ever"),
        (r"(nobody)", r"does not fit p1\.nii and 0 other images"),
        ("(", "is not a regular expression"),
    ],
)
def test_a_pattern_that_cannot_tell_is_refused_in_one_line(pattern: str, line: str) -> None:
    with pytest.raises(ValueError, match=line) as error:
        _patients("p1.nii", pattern=pattern)
    assert str(error.value).startswith("--patient-pattern") and "\n" not in str(error.value)
