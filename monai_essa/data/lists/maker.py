# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Make a datalist from folders: pair images with labels, split them by patient, and write it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_essa.data.lists.splits import DEFAULT_SHARES, split_patients
from monai_essa.data.pairing.search import CaseRules, find_cases
from monai_essa.data.pairing.studies import Case, Cases, LeftOut
from monai_essa.files import write_text_whole

__all__ = ["make_datalist", "split_cases", "write_datalist"]


def make_datalist(
    images_dir: str | Path,
    labels_dir: str | Path | None = None,
    shares: Mapping[str, float] = DEFAULT_SHARES,
    seed: int = 0,
    rules: CaseRules | None = None,
) -> tuple[dict[str, Any], list[LeftOut]]:
    """Make a datalist in which no patient is in two sections.

    A label belongs to the image whose path has the same words, except those that say what a file is: ``_seg``,
    ``mask_``, ``_0000``, the series (``_T1``). Labels are what ``labels_dir`` holds; without it, files whose name or
    voxels say so. The series of a study become the channels of one image if every study has them on one
    grid; otherwise one is taken. Images without a label go to ``unlabeled``, unless their patient is in ``validation``
    or ``testing``.

    Args:
        images_dir: searched with its sub-folders for NIfTI, MGH, NRRD, MetaImage and DICOM; for pictures if there
            is none of these.
        labels_dir: searched likewise; default: labels lie under ``images_dir``.
        shares: of the labelled patients, as in :func:`monai_essa.data.split_patients`; what they leave over joins
            ``unlabeled`` without its labels.
        seed: of the split.
        rules: patterns and what makes a patient; see :class:`monai_essa.data.CaseRules`.

    Returns:
        The datalist, with absolute paths (see :func:`write_datalist`), and each file left out with the reason.

    Raises:
        FileNotFoundError: if a folder does not exist.
        ValueError: if no image is found, a label map cannot be paired for sure, or the patients cannot fill the shares.

    Example:
        >>> datalist, left_out = make_datalist("scans", "masks", {"training": 3, "validation": 2})  # doctest: +SKIP
    """
    made = find_cases(images_dir, labels_dir, rules)
    return split_cases(made, Path(images_dir).resolve().name, shares, seed)


def split_cases(
    made: Cases, name: str, shares: Mapping[str, float] = DEFAULT_SHARES, seed: int = 0
) -> tuple[dict[str, Any], list[LeftOut]]:
    """Put the cases that :func:`monai_essa.data.pairing.search.find_cases` found into the sections of a datalist.

    Args:
        made: the cases.
        name: of the datalist.
        shares: as in :func:`make_datalist`.
        seed: of the split.

    Returns:
        As :func:`make_datalist`.

    Raises:
        ValueError: if the patients cannot fill the shares.
    """
    labelled = {case.patient for case in made.cases if case.label}
    section_of = split_patients(labelled, shares, seed) if labelled else {}
    datalist: dict[str, Any] = {"name": name, "seed": seed}
    if made.channels:
        datalist["channel_names"] = {str(place): channel for place, channel in enumerate(made.channels)}
    datalist |= {section: [] for section in [*(shares if labelled else ()), "unlabeled"]}
    left_out = list(made.left_out)
    for case in made.cases:
        section = section_of.get(case.patient, "unlabeled")
        if section == "unlabeled" or (section == "training" and not case.label):
            datalist["unlabeled"].append({"image": _image(case), "patient": case.patient})
        elif case.label:
            item = {"image": _image(case), "label": str(case.label.path.absolute()), "patient": case.patient}
            datalist[section].append(item)
        else:
            left_out.append(LeftOut(case.name, f"no label, and its patient is in {section}; using it would leak"))
    return datalist, left_out


def write_datalist(datalist: Mapping[str, Any], path: str | Path) -> Path:
    """Write a datalist with paths relative to its own folder, whole or not at all.

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
    write_text_whole(path, json.dumps(relative, indent=1) + "\n")
    return path


def _image(case: Case) -> str | list[str]:
    """Name the file of a case, or its files, which are the channels of one image."""
    paths = [str(image.path.absolute()) for image in case.images]
    return paths if len(paths) > 1 else paths[0]


def _relative(items: Sequence[Mapping[str, Any]], base: Path) -> list[dict[str, Any]]:
    return [
        {key: _relative_path(value, base) if key in ("image", "label") else value for key, value in item.items()}
        for item in items
    ]


def _relative_path(value: str | Sequence[str], base: Path) -> str | list[str]:
    if not isinstance(value, str):
        return [Path(os.path.relpath(Path(part).resolve(), base)).as_posix() for part in value]
    return Path(os.path.relpath(Path(value).resolve(), base)).as_posix()
