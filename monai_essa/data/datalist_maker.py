# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Makes a datalist from folders: images paired with labels, one series per study, split by patient."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from monai_essa.data.case_names import folders_of, is_label_path, leading_id, subject_of, volume_stem
from monai_essa.data.case_pairs import Case, one_per_study, pair_labels
from monai_essa.data.splits import DEFAULT_SHARES, split_patients
from monai_essa.data.volume_search import FoundVolume, find_volumes

__all__ = ["make_datalist", "write_datalist"]


def make_datalist(
    images_dir: str | Path,
    labels_dir: str | Path | None = None,
    shares: Mapping[str, float] = DEFAULT_SHARES,
    seed: int = 0,
    group_by: Literal["folder", "name"] = "folder",
    pattern: str = "*",
) -> tuple[dict[str, Any], list[str]]:
    """Make a datalist in which no patient is in two sections.

    A label belongs to the image of the same name but for endings such as ``_seg``, ``_label``, ``_0000`` or the
    series (``_T1``), in the same sub-folder if several fit. Labels are what ``labels_dir`` holds; without it, what
    lies in folders such as ``labelsTr`` or ends in ``_seg``. Of the series of a study one is taken: with a label
    before without, then the kind most studies have, then the one with the most slices. Images without a label go to
    ``unlabeled``, unless their patient is in ``validation`` or ``testing``.

    Args:
        images_dir: searched with its sub-folders for NIfTI, NRRD, MetaImage and DICOM.
        labels_dir: searched likewise; default: labels lie under ``images_dir``.
        shares: of the labelled patients, as in :func:`monai_essa.data.split_patients`; what they leave over joins
            ``unlabeled`` without its labels.
        seed: of the split.
        group_by: what makes a patient where neither BIDS names (``sub-07``) nor DICOM tell: the first sub-folder, or
            ``"name"``, the part of the file name before side, series and visit. Files in no sub-folder go by name.
        pattern: take only images whose relative path or name fits, as ``*_T1w.nii.gz``.

    Returns:
        The datalist, with absolute paths (see :func:`write_datalist`), and one line for each volume left out and why.

    Raises:
        FileNotFoundError: if a folder does not exist.
        ValueError: if no image is found, no label fits, or the patients cannot fill the shares.

    Example:
        >>> datalist, left_out = make_datalist("scans", "masks", {"training": 3, "validation": 2})  # doctest: +SKIP
    """
    images, labels, left_out = _images_and_labels(Path(images_dir), Path(labels_dir or images_dir), pattern)
    cases, unpaired = pair_labels(images, labels)
    cases, repeated = one_per_study(cases)
    left_out += unpaired + repeated
    cases = _with_patients(cases, group_by)
    labelled = {case.patient for case in cases if case.label}
    section_of = split_patients(labelled, shares, seed) if labelled else {}

    datalist: dict[str, Any] = {"name": Path(images_dir).resolve().name, "seed": seed}
    datalist |= {section: [] for section in [*(shares if labelled else ()), "unlabeled"]}
    for case in cases:
        section = section_of.get(case.patient, "unlabeled")
        if section == "unlabeled" or (section == "training" and not case.label):
            datalist["unlabeled"].append({"image": str(case.image.path), "patient": case.patient})
        elif case.label:
            item = {"image": str(case.image.path), "label": str(case.label.path), "patient": case.patient}
            datalist[section].append(item)
        else:
            left_out.append(f"{case.image.name}: no label, and its patient is in {section}; using it would leak")
    return datalist, left_out


def write_datalist(datalist: Mapping[str, Any], path: str | Path) -> Path:
    """Write a datalist with paths relative to its own folder, under a temporary name that is then renamed.

    Args:
        datalist: as :func:`make_datalist` returns it.
        path: the JSON file to write.

    Returns:
        The path.

    Raises:
        FileExistsError: if the file exists; it is left as it is.
    """
    path = Path(path)
    if path.exists():
        msg = f"{path} exists; expected a new file: give another name or move the old one away"
        raise FileExistsError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    base = path.parent.resolve()
    relative = {key: _relative(value, base) if isinstance(value, list) else value for key, value in datalist.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(relative, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def _images_and_labels(
    images_dir: Path, labels_dir: Path, pattern: str
) -> tuple[list[FoundVolume], list[FoundVolume], list[str]]:
    found = find_volumes(images_dir)
    apart = labels_dir.resolve() != images_dir.resolve()
    labels = list(find_volumes(labels_dir)) if apart else [volume for volume in found if is_label_path(volume.name)]
    if apart and not labels:
        msg = f"{labels_dir}: expected label files, found none; leave the labels folder out for unlabelled data"
        raise ValueError(msg)
    paths = {volume.path.resolve() for volume in labels}
    others = [volume for volume in found if volume.path.resolve() not in paths]
    astray = [volume.name for volume in others if is_label_path(volume.name)]
    images = [
        volume
        for volume in others
        if volume.name not in astray and (fnmatch(volume.name, pattern) or fnmatch(volume.path.name, pattern))
    ]
    if not images:
        msg = f"{images_dir}: expected NIfTI, NRRD, MetaImage or DICOM images that fit {pattern!r}, found none"
        raise ValueError(msg)
    return images, labels, [f"{name}: looks like a label but is not in {labels_dir}" for name in astray]


def _with_patients(cases: Sequence[Case], group_by: str) -> list[Case]:
    identifiers = {case.image.patient for case in cases} - {""}
    told_apart = len(identifiers) > 1  # anonymisers often give everybody the same PatientID
    keys = [case.image.patient if told_apart and case.image.patient else case.image.name for case in cases]
    names: dict[str, str] = {}
    for case, key in zip(cases, keys, strict=True):
        names.setdefault(key, _patient_name(case.image.name, group_by))
    return [replace(case, patient=names[key]) for case, key in zip(cases, keys, strict=True)]


def _patient_name(name: str, group_by: str) -> str:
    folders = folders_of(name)
    if subject_of(name):
        return subject_of(name)
    if group_by == "folder" and folders:
        return folders[0]
    return leading_id(name) or "/".join(folders) or volume_stem(name)


def _relative(items: Sequence[Mapping[str, Any]], base: Path) -> list[dict[str, Any]]:
    return [
        {
            key: Path(os.path.relpath(Path(value).resolve(), base)).as_posix() if key in ("image", "label") else value
            for key, value in item.items()
        }
        for item in items
    ]
