# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Search folders for the cases of a datalist: tell scans from label maps, pair and group them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePath
from typing import Literal

from tqdm import tqdm

from monai_essa.data.pairing.names import is_label_path
from monai_essa.data.pairing.pairs import fit_labels, with_patients
from monai_essa.data.pairing.studies import Cases, LeftOut, make_cases
from monai_essa.data.readers.folder import FoundVolume, VolumeLook, find_pictures, find_volumes, look_at
from monai_essa.outside import shown

__all__ = ["CaseRules", "find_cases"]

_PICTURES_LOOKED_AT = 3  # of a folder
_Looks = dict[FoundVolume, VolumeLook]


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
        images_dir: searched with its sub-folders for NIfTI, MGH, NRRD, MetaImage and DICOM; for pictures if there is
            not one of these.
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
        msg = f"no label fits an image: names are like {labels[0].name} and {images[0].name}; make their stems equal"
        raise ValueError(msg)
    made = make_cases(images, fit, looks)
    made.left_out[:0] = [*left_out, *_label_pictures(images_dir, images)]
    _refuse_lost_labels(made.left_out, len(labels), rules)
    _leave_out_other_channels(made, looks)
    made.cases = with_patients(made.cases, rules.group_by, rules.patient_pattern)
    return made


def _images_and_labels(
    images_dir: Path, labels_dir: Path, rules: CaseRules, looks: _Looks, left_out: list[LeftOut]
) -> tuple[list[FoundVolume], list[FoundVolume]]:
    found = _with_plain_names(find_volumes(images_dir), left_out)
    apart = labels_dir.resolve() != images_dir.resolve()
    beside = _with_plain_names(find_volumes(labels_dir), left_out) if apart else []
    if apart and not beside:
        msg = f"{labels_dir}: expected label files, found none; leave the labels folder out for unlabelled data"
        raise ValueError(msg)
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
            "give the folder of the scans, or --images-are-masks to classify shapes"
        )
    return f"{folder}: expected NIfTI, NRRD, MetaImage or DICOM images that fit {pattern!r}, found none"


def _label_pictures(folder: Path, images: Sequence[FoundVolume]) -> list[LeftOut]:
    """Say which folders beside volumes hold pictures of label maps, slice by slice."""
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
        "mend the names, choose by --label-pattern, or leave such labels out by --leave-out-unpaired"
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
