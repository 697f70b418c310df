# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Search folders for the cases of a datalist: tell scans from label maps, pair them, and group them by patient."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path, PurePath
from typing import Literal

from tqdm import tqdm

from monai_essa.data.pairing.names import (
    case_of,
    folders_of,
    is_label_path,
    leading_id,
    modality_of,
    split_of,
    subject_of,
    volume_stem,
    words_of,
)
from monai_essa.data.pairing.studies import Case, Cases, LeftOut, make_cases
from monai_essa.data.readers.folder import FoundVolume, VolumeLook, find_pictures, find_volumes, look_at
from monai_essa.outside import check_pattern, shown

__all__ = ["CaseRules", "find_cases", "fit_labels", "with_patients"]

_PICTURES_LOOKED_AT = 3  # of a folder
_Looks = dict[FoundVolume, VolumeLook]
_CHANNEL = re.compile(r"_\d{4}$")
_SAY_WHAT_IT_IS = frozenset(
    "image images img imgs imaging volume volumes vol scan scans data input raw orig seg aseg dseg segm segmentation "
    "segmentations label labels labelmap mask masks msk manual gt truth groundtruth annotation annotations".split()
)
_Fit = dict[FoundVolume, list[FoundVolume]]
_COUNTED = re.compile(r"^(?P<stem>.*\d)[-_. ](?P<count>\d{1,4})$")
_MOST_COUNTED = 20  # recordings of a patient
_MEAN_COUNTED = 4  # the same on average; more would be the patients of a site


@dataclass(frozen=True)
class CaseRules:
    """Choices that the names and folders of a data set leave open.

    Args:
        pattern: take only images whose relative path or name fits, as ``*_T1w.nii.gz``.
        label_pattern: the same for label maps, where an image has several.
        group_by: what makes a patient where neither BIDS names (``sub-07``) nor DICOM tell: the first sub-folder, or
            ``"name"``, the part of the file name before side, series, visit, frame. Files in no sub-folder go by name.
        patient_pattern: regular expression with one group, the patient; overrides ``group_by``, BIDS and DICOM.
        images_are_masks: take label maps in the folder of images for images, as for the classification of shapes.
        leave_out_unpaired: leave out label maps that cannot be paired for sure, in place of an error.
    """

    pattern: str = "*"
    label_pattern: str = "*"
    group_by: Literal["folder", "name"] = "folder"
    patient_pattern: str | None = None
    images_are_masks: bool = False
    leave_out_unpaired: bool = False


def find_cases(images_dir: str | Path, labels_dir: str | Path | None = None, rules: CaseRules | None = None) -> Cases:
    """Find the cases of a data set.

    Label maps are what ``labels_dir`` holds; without it, files whose name says so (``p1_seg``, ``mask_p1``,
    ``labelsTr/p1``), and those whose voxels do: few levels, or whole numbers that neighbours share.

    Args:
        images_dir: searched with its sub-folders for NIfTI, MGH, NRRD, MetaImage and DICOM; if there are none of
            these, for pictures.
        labels_dir: searched likewise; default: labels lie under ``images_dir``.
        rules: see :class:`CaseRules`.

    Returns:
        The cases with their patients, and each file left out with the reason.

    Raises:
        FileNotFoundError: if a folder does not exist.
        ValueError: if no image is found, or a label map cannot be paired for sure.
    """
    rules = rules or CaseRules()
    images_dir, labels_dir = Path(images_dir), Path(labels_dir or images_dir)
    left_out: list[LeftOut] = []
    looks: _Looks = {}
    images, labels = _images_and_labels(images_dir, labels_dir, rules, looks, left_out)
    fit = fit_labels(images, labels)
    if labels and not any(fit.values()):
        like = f"{labels[0].name} and {images[0].name}"
        raise ValueError(f"no label fits an image: names are like {like}; make their stems equal")
    made = make_cases(images, fit, looks)
    made.left_out[:0] = [*left_out, *_label_pictures(images_dir, images)]
    _refuse_lost_labels(made.left_out, len(labels), rules)
    _leave_out_other_channels(made, looks)
    made.cases = with_patients(made.cases, rules.group_by, rules.patient_pattern)
    return made


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


def _images_and_labels(
    images_dir: Path, labels_dir: Path, rules: CaseRules, looks: _Looks, left_out: list[LeftOut]
) -> tuple[list[FoundVolume], list[FoundVolume]]:
    found = _with_plain_names(find_volumes(images_dir), left_out)
    apart = labels_dir.resolve() != images_dir.resolve()
    beside = _with_plain_names(find_volumes(labels_dir), left_out) if apart else []
    if apart and not beside:
        raise ValueError(f"{labels_dir}: expected label files, found none; name no labels folder for unlabelled data")
    inside = {volume.path.resolve() for volume in beside}
    found = [volume for volume in found if volume.path.resolve() not in inside]
    _look(found, looks, rules)
    looks |= {volume: look_at(volume.path, voxels=False) for volume in beside}
    maps = set() if rules.images_are_masks else _label_maps(found, looks)
    images = [volume for volume in found if volume not in maps and _fits(volume, rules.pattern)]
    if not images:
        raise ValueError(_nothing_found(images_dir, rules.pattern, len(maps)))
    if apart:
        reason = f"looks like a label but is not in {labels_dir}"
        left_out += [LeftOut(volume.name, reason) for volume in found if volume in maps]
    labels = beside or [volume for volume in found if volume in maps]
    left_out += [
        LeftOut(volume.name, f"does not fit the label pattern {rules.label_pattern}")
        for volume in labels
        if not _fits(volume, rules.label_pattern)
    ]
    return images, [volume for volume in labels if _fits(volume, rules.label_pattern)]


def _with_plain_names(volumes: Iterable[FoundVolume], left_out: list[LeftOut]) -> list[FoundVolume]:
    plain = []
    for volume in volumes:
        if volume.name.isprintable():
            plain.append(volume)
        else:
            left_out.append(LeftOut(shown(volume.name), "the name has characters that cannot be printed; rename it"))
    return plain


def _fits(volume: FoundVolume, pattern: str) -> bool:
    return fnmatch(volume.name, pattern) or fnmatch(volume.path.name, pattern)


def _look(volumes: Sequence[FoundVolume], looks: _Looks, rules: CaseRules) -> None:
    for volume in tqdm(volumes, "looking at voxels", disable=None):
        by_name = is_label_path(PurePath(volume.name).name)
        looks[volume] = look_at(volume.path, voxels=not by_name and not rules.images_are_masks)


def _label_maps(volumes: Sequence[FoundVolume], looks: _Looks) -> set[FoundVolume]:
    """Tell label maps by file name, then by voxels, then (voxels all equal or unreadable) by folder and siblings."""
    verdicts: dict[FoundVolume, bool | None] = {}
    for volume in volumes:
        by_name = is_label_path(PurePath(volume.name).name)
        verdicts[volume] = True if by_name else looks[volume].is_label
    siblings: dict[str, set[bool | None]] = defaultdict(set)
    for volume, verdict in verdicts.items():
        siblings[_kind(volume)].add(verdict)
    return {
        volume
        for volume, verdict in verdicts.items()
        if verdict or (verdict is None and (is_label_path(volume.name) or siblings[_kind(volume)] - {None} == {True}))
    }


def _kind(volume: FoundVolume) -> str:
    return re.sub(r"\d+", "#", volume.name)


def _nothing_found(folder: Path, pattern: str, maps: int) -> str:
    if maps:
        return (
            f"{folder}: expected scans that fit {pattern!r}, got {maps} files that look like label maps; "
            "name the folder of the scans, or add --images-are-masks to classify shapes"
        )
    return f"{folder}: expected NIfTI, NRRD, MetaImage or DICOM images that fit {pattern!r}, found none"


def _label_pictures(folder: Path, images: Sequence[FoundVolume]) -> list[LeftOut]:
    """Return the folders beside volumes that hold pictures of label maps, slice by slice."""
    pictures = find_pictures(folder)
    if not set(pictures).isdisjoint(images):
        return []
    by_place: dict[Path, list[FoundVolume]] = defaultdict(list)
    for picture in pictures:
        by_place[picture.path.parent].append(picture)
    return [
        LeftOut(
            f"{place.relative_to(folder).as_posix()} ({len(together)} pictures)",
            "label maps slice by slice; make them one NIfTI map of their volume",
            True,
        )
        for place, together in by_place.items()
        if any(
            is_label_path(picture.name) or look_at(picture.path).is_label for picture in together[:_PICTURES_LOOKED_AT]
        )
    ]


def _refuse_lost_labels(left_out: Sequence[LeftOut], labels: int, rules: CaseRules) -> None:
    lost = [entry for entry in left_out if entry.label_lost]
    if not lost or rules.leave_out_unpaired:
        return
    more = f" (and {len(lost) - 3} more)" if len(lost) > 3 else ""
    lines = ", ".join(f"{entry.name} ({entry.reason})" for entry in lost[:3])
    raise ValueError(
        f"{len(lost)} label maps of {max(labels, len(lost))} cannot be paired with an image for sure: {lines}{more}; "
        "correct the names, choose by --label-pattern, or leave such labels out by --leave-out-unpaired"
    )


def _leave_out_other_channels(made: Cases, looks: Mapping[FoundVolume, VolumeLook]) -> None:
    """Leave out time series among 3-D images: a network takes one number of channels."""
    counts = {case.name: looks[case.images[0]].channels for case in made.cases}
    asked = [case for case in made.cases if case.label] or made.cases
    usual = Counter(counts[case.name] for case in asked).most_common(1)[0][0] if asked else 1
    odd = [case for case in made.cases if counts[case.name] != usual and not case.label]
    made.left_out += [
        LeftOut(
            case.name,
            f"{counts[case.name]} time points or channels, the other images have {usual}; split it into 3-D images",
        )
        for case in odd
    ]
    made.cases = [case for case in made.cases if case not in odd]


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
        expected = f"expected one group, as in '(patient\\d+)', got {expression.groups}"
        raise ValueError(f"--patient-pattern {shown(pattern)}: {expected}")
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
