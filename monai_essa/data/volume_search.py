# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Finds the volumes of a folder tree: image files and DICOM series; pictures where there are no volumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from monai_essa.data.case_names import PICTURE_SUFFIXES, VOLUME_SUFFIXES, case_of, series_of
from monai_essa.data.dicom_series import DicomSeries, find_series, is_dicom

__all__ = ["FoundVolume", "find_pictures", "find_volumes"]


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
    """Search a folder and its sub-folders; hidden files, files of other kinds, pipes and devices are passed over.

    Args:
        folder: where to search.

    Returns:
        The volumes, sorted by name; or the pictures (PNG, JPEG, TIFF, BMP) if there is not one volume, since beside
        volumes they are previews.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    return _search(folder, _in_folder) or find_pictures(folder)


def find_pictures(folder: str | Path) -> tuple[FoundVolume, ...]:
    """Search a folder and its sub-folders for pictures, whether or not there are volumes.

    Args:
        folder: where to search.

    Returns:
        The pictures, sorted by name.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    return _search(folder, _pictures)


def _search(
    folder: str | Path, find: Callable[[Path, Path, list[Path]], Iterator[FoundVolume]]
) -> tuple[FoundVolume, ...]:
    root = Path(folder)
    if not root.is_dir():
        msg = f"{root}: no such folder; give the folder that holds the images"
        raise FileNotFoundError(msg)
    found = [
        volume
        for place, _, names in os.walk(root)
        for volume in find(root, Path(place), _regular(Path(place), sorted(names)))
    ]
    return tuple(sorted(found, key=lambda volume: volume.name))


def _regular(place: Path, names: list[str]) -> list[Path]:
    """Leave out what is hidden, and what would block the reader for ever, as a pipe does."""
    return [place / name for name in names if not name.startswith(".") and (place / name).is_file()]


def _in_folder(root: Path, place: Path, files: list[Path]) -> Iterator[FoundVolume]:
    images = [path for path in files if path.name.lower().endswith(VOLUME_SUFFIXES) and path.suffix.lower() != ".dcm"]
    yield from (_image(root, path) for path in images)

    others = [path for path in files if path not in images and not path.name.lower().endswith(PICTURE_SUFFIXES)]
    if any(is_dicom(path) for path in others):
        series = find_series(place)
        yield from (_dicom(root, one, place if len(series) == 1 else Path(min(one.files))) for one in series)


def _pictures(root: Path, place: Path, files: list[Path]) -> Iterator[FoundVolume]:
    yield from (_image(root, path) for path in files if path.name.lower().endswith(PICTURE_SUFFIXES))


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
