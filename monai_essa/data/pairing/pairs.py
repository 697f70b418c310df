# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Pair label maps with images, and cases with patients."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from monai_essa.data.pairing.names import (
    case_of,
    folders_of,
    leading_id,
    modality_of,
    split_of,
    subject_of,
    volume_stem,
    words_of,
)
from monai_essa.data.pairing.studies import Case
from monai_essa.data.readers.folder import FoundVolume
from monai_essa.outside import check_pattern, shown

__all__ = ["fit_labels", "with_patients"]

_CHANNEL = re.compile(r"_\d{4}$")
_SAY_WHAT_IT_IS = frozenset(
    "image images img imgs imaging volume volumes vol scan scans data input raw orig seg aseg dseg segm segmentation "
    "segmentations label labels labelmap mask masks msk manual gt truth groundtruth annotation annotations".split()
)
_Fit = dict[FoundVolume, list[FoundVolume]]
_COUNTED = re.compile(r"^(?P<stem>.*\d)[-_. ](?P<count>\d{1,4})$")
_MOST_COUNTED = 20  # recordings of a patient
_MEAN_COUNTED = 4  # the same on average; more would be the patients of a site


def fit_labels(images: Sequence[FoundVolume], labels: Sequence[FoundVolume]) -> _Fit:
    """Find the images of each label; several are the series of one study, or a doubt.

    Four ways to compare names are tried in turn, for the labels that those before left without an image: equal names,
    but for nnU-Net's channel; equal identities (see below); the same with ``img0007`` taken apart; and the name of the
    label as the name of a folder. An *identity* is a path's words without those that only images or only labels have,
    if these stand in more than one identity (``volume``, ``t1n``, ``liver``) or say what a file is (``seg``).
    So ``case_00001/imaging`` fits ``case_00001/segmentation``, and ``case_4_seg`` does not fit ``case_5``.

    Args:
        images: what :func:`monai_essa.data.readers.folder.find_volumes` found.
        labels: likewise.

    Returns:
        The images of each label; an empty list if none fits.

    Example:
        >>> volume, mask = (FoundVolume(None, name, (), "") for name in ("volume-1.nii", "segmentation-1.nii"))
        >>> [image.name for image in fit_labels([volume], [mask])[mask]]
        ['volume-1.nii']
    """
    fit: _Fit = {label: [] for label in labels}
    for compare in (_by_equal_names, _by_identity(words_of), _by_identity(_smaller_words), _by_folder):
        left = [label for label, fitting in fit.items() if not fitting]
        fit |= compare(images, left)
    return fit


def with_patients(cases: Sequence[Case], group_by: str = "folder", pattern: str | None = None) -> list[Case]:
    """Name the patient of each case.

    The PatientID of DICOM series tells patients apart if it differs between series, and never becomes part of the name.
    Otherwise the patient is the BIDS subject, the first sub-folder, or the name before series, side, visit and the
    like. If all these names end in two numbers, as BraTS-GLI-00005-000 and BraTS-GLI-00005-001 do, and few share the
    first, the second counts visits.

    Args:
        cases: without patients.
        group_by: ``folder``, or ``name`` to ignore the sub-folders.
        pattern: regular expression with one group, the patient, searched for in the relative path; overrides the rest.

    Returns:
        The cases with their patients.

    Raises:
        ValueError: if the pattern does not have one group, may take for ever, or does not fit a case.

    Example:
        >>> from monai_essa.data.readers.folder import FoundVolume
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


def _by_equal_names(images: Sequence[FoundVolume], labels: Sequence[FoundVolume]) -> _Fit:
    by_stem: dict[str, list[FoundVolume]] = defaultdict(list)
    for image in images:
        stem = volume_stem(image.name)
        for name in {stem, _CHANNEL.sub("", stem)}:
            by_stem[name].append(image)
    fit: _Fit = {}
    for label in labels:
        same = _of_one_split(by_stem[volume_stem(label.name)], label)
        beside = [image for image in same if folders_of(image.name) == folders_of(label.name)]
        fit[label] = beside or (same if len({folders_of(image.name) for image in same}) < 2 else [])
    return fit


def _by_identity(words: Callable[[str], tuple[str, ...]]) -> Callable[..., _Fit]:
    def compare(images: Sequence[FoundVolume], labels: Sequence[FoundVolume]) -> _Fit:
        of_images, of_labels = ({one: words(one.name) for one in side} for side in (images, labels))
        shared = set(chain(*of_images.values())) & set(chain(*of_labels.values()))
        by_identity: dict[tuple[str, ...], list[FoundVolume]] = defaultdict(list)
        for image, identity in _identities(of_images, shared).items():
            by_identity[identity].append(image)
        found = _identities(of_labels, shared)
        return {label: _of_one_split(by_identity[found[label]], label) if found[label] else [] for label in labels}

    return compare


def _identities(side: Mapping[FoundVolume, tuple[str, ...]], shared: set[str]) -> dict[FoundVolume, tuple[str, ...]]:
    places: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for words in side.values():
        place = tuple(word for word in words if word in shared)
        for word in set(words) - set(place):
            places[word].add(place)
    free = {word for word, stands in places.items() if len(stands) > 1 or word in _SAY_WHAT_IT_IS or modality_of(word)}
    return {volume: tuple(word for word in words if word not in free) for volume, words in side.items()}


def _by_folder(images: Sequence[FoundVolume], labels: Sequence[FoundVolume]) -> _Fit:
    by_name: dict[str, list[FoundVolume]] = defaultdict(list)
    for image in images:
        for name in {case_of(image.name), *folders_of(image.name)} - {""}:
            by_name[name].append(image)
    return {label: _of_one_split(by_name[case_of(label.name)], label) for label in labels}


def _smaller_words(name: str) -> tuple[str, ...]:
    return tuple(
        part for word in words_of(name) for part in ([word] if modality_of(word) else re.findall(r"[a-z]+|\d+", word))
    )


def _of_one_split(images: Sequence[FoundVolume], label: FoundVolume) -> list[FoundVolume]:
    """Leave out images of the publisher's test set for a label of the training set; numbers may start anew there."""
    split = split_of(label.name)
    return [image for image in images if not split or split_of(image.name) in ("", split)]


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
    """Return the first folder if all cases share it and it has no number: it names the data, not a patient."""
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
    """Map names to the part before a number that counts the recordings of a patient; empty if no number does."""
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
