# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Finds the volumes of a folder tree: image files and DICOM series."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monai_essa.data.case_names import VOLUME_SUFFIXES, case_of, series_of
from monai_essa.data.dicom_series import DicomSeries, find_series, is_dicom

__all__ = ["FoundVolume", "find_volumes"]


@dataclass(frozen=True)
class FoundVolume:
    """One volume of a folder tree.

    Attributes:
        path: what a datalist names: a file, a DICOM folder, or one file of a series where a folder holds several.
        name: the same relative to the searched folder, with forward slashes.
        study: equal for the series of one study; for grouping only, never write it down.
        series: what tells the series within its study.
        slices: of a DICOM series, else 0.
        patient: the PatientID of a DICOM series, else empty; for grouping only, never write it down.
    """

    path: Path
    name: str
    study: tuple[str, ...]
    series: str
    slices: int = 0
    patient: str = ""


def find_volumes(folder: str | Path) -> tuple[FoundVolume, ...]:
    """Search a folder and its sub-folders; hidden files and files of other kinds are passed over.

    Args:
        folder: where to search.

    Returns:
        The volumes, sorted by name.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    root = Path(folder)
    if not root.is_dir():
        msg = f"{root}: no such folder; give the folder that holds the images"
        raise FileNotFoundError(msg)
    found = [volume for place, _, names in os.walk(root) for volume in _in_folder(root, Path(place), sorted(names))]
    return tuple(sorted(found, key=lambda volume: volume.name))


def _in_folder(root: Path, place: Path, names: list[str]) -> Iterator[FoundVolume]:
    visible = [place / name for name in names if not name.startswith(".")]
    images = [path for path in visible if path.name.lower().endswith(VOLUME_SUFFIXES) and path.suffix.lower() != ".dcm"]
    yield from (_image(root, path) for path in images)

    others = [path for path in visible if path not in images]
    if any(is_dicom(path) for path in others):
        series = find_series(place)
        yield from (_dicom(root, one, place if len(series) == 1 else Path(min(one.files))) for one in series)


def _image(root: Path, path: Path) -> FoundVolume:
    name = path.relative_to(root).as_posix()
    series = series_of(name)
    case = case_of(name)
    study = (str(path.parent), case[: len(case) - len(series)].rstrip("._-"))
    return FoundVolume(path, name, study, series)


def _dicom(root: Path, series: DicomSeries, path: Path) -> FoundVolume:
    name = path.relative_to(root).as_posix()
    study = (series.study or str(path),)
    return FoundVolume(path, name, study, path.name, len(series.files), series.patient)
