# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tells which cases are of one patient: by DICOM, by BIDS, by folders, or by what the names have in common."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from monai_essa.data.case_names import folders_of, leading_id, subject_of, volume_stem
from monai_essa.data.case_studies import Case
from monai_essa.outside import check_pattern, shown

__all__ = ["with_patients"]

_COUNTED = re.compile(r"^(?P<stem>.*\d)[-_. ](?P<count>\d{1,4})$")
_MOST_COUNTED = 20  # recordings of a patient
_MEAN_COUNTED = 4  # the same on average; more would be the patients of a site


def with_patients(cases: Sequence[Case], group_by: str = "folder", pattern: str | None = None) -> list[Case]:
    """Name the patient of each case.

    The PatientID of DICOM series tells where it differs between them, and never gets into the name. Else it is the
    BIDS subject, the first sub-folder, or the name before series, side, visit and the like. If all these names end in
    two numbers, as BraTS-GLI-00005-000 and BraTS-GLI-00005-001 do, and few share the first, the second counts visits.

    Args:
        cases: without patients.
        group_by: ``folder``, or ``name`` to pass over the sub-folders.
        pattern: regular expression with one group, the patient, searched for in the relative path; overrides the rest.

    Returns:
        The cases with their patients.

    Raises:
        ValueError: if the pattern has not one group, may take for ever, or does not fit a case.

    Example:
        >>> from monai_essa.data.volume_search import FoundVolume
        >>> frames = [Case((FoundVolume(None, f"patient001_frame{number}.nii", (), ""),), None) for number in (1, 12)]
        >>> [case.patient for case in with_patients(frames)]
        ['patient001', 'patient001']
    """
    if pattern is not None:
        return _by_pattern(cases, pattern)
    identifiers = {case.images[0].patient for case in cases} - {""}
    told_apart = len(identifiers) > 1  # anonymisers often give everybody the same PatientID
    keys = [case.images[0].patient if told_apart and case.images[0].patient else case.name for case in cases]
    shared = _shared_folder(cases)
    names: dict[str, str] = {}
    for case, key in zip(cases, keys, strict=True):
        names.setdefault(key, _patient_name(case.name, group_by, shared))
    shorter = _without_counts(names.values())
    return [replace(case, patient=shorter.get(names[key], names[key])) for case, key in zip(cases, keys, strict=True)]


def _by_pattern(cases: Sequence[Case], pattern: str) -> list[Case]:
    expression = re.compile(check_pattern(pattern, "--patient-pattern"))
    if expression.groups != 1:
        raise ValueError(
            f"--patient-pattern {shown(pattern)}: expected one group, as in '(patient\\d+)', got {expression.groups}"
        )
    found = [expression.search(case.name) for case in cases]
    missing = [case.name for case, match in zip(cases, found, strict=True) if not match or not match[1]]
    if missing:
        msg = f"--patient-pattern {shown(pattern)}: does not fit {missing[0]} and {len(missing) - 1} other images"
        raise ValueError(f"{msg}; correct it")
    return [replace(case, patient=str(match[1])) for case, match in zip(cases, found, strict=True) if match]


def _shared_folder(cases: Sequence[Case]) -> str:
    """Return the first folder where it is that of all cases and has no number: it names the data, not a patient."""
    first = {folders[0] if (folders := folders_of(case.name)) else "" for case in cases}
    shared = first.pop() if len(first) == 1 and len(cases) > 1 else ""
    return "" if re.search(r"\d", shared) else shared


def _patient_name(name: str, group_by: str, shared: str) -> str:
    folders = folders_of(name)
    folders = folders[1:] if shared and folders[0] == shared else folders
    if subject_of(name):
        return subject_of(name)
    if group_by == "folder" and folders:
        return leading_id(folders[0]) or folders[0]
    return leading_id(name) or "/".join(folders) or volume_stem(name)


def _without_counts(names: Iterable[str]) -> Mapping[str, str]:
    """Map names to what comes before a number that counts the recordings of a patient; empty if nothing does."""
    distinct = sorted(set(names))
    matches = [_COUNTED.match(name) for name in distinct]
    stems: dict[str, set[str]] = defaultdict(set)
    for match in matches:
        if match is None:
            return {}
        stems[match["stem"]].add(match["count"])
    one_form = len({re.sub(r"\d+", "#", stem) for stem in stems}) == 1
    most = max(map(len, stems.values()), default=0)
    few = most <= min(_MOST_COUNTED, len(stems)) and len(distinct) <= _MEAN_COUNTED * len(stems)
    if not (one_form and few and most > 1):
        return {}
    return {name: match["stem"] for name, match in zip(distinct, matches, strict=True) if match}
