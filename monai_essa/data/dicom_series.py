# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One DICOM series as a volume whose slice spacing comes from the slice positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

__all__ = ["DicomSeries", "find_series", "is_dicom", "read_series", "series_files"]

_GRID_TOLERANCE = 0.1  # of the slice distance: a missing slice is off by half of it, rounded positions by a few percent
_STUDY_UID, _SERIES_UID, _PATIENT_ID = "0020|000d", "0020|000e", "0010|0020"


@dataclass(frozen=True)
class DicomSeries:
    """One series of a folder.

    Attributes:
        uid: the SeriesInstanceUID, empty where an anonymiser removed it.
        files: the files of its slices, unsorted paths as text.
        study: the StudyInstanceUID, for grouping only; never write it down.
        patient: the PatientID, for grouping only; never write it down.
    """

    uid: str
    files: tuple[str, ...]
    study: str
    patient: str


def is_dicom(path: str | Path) -> bool:
    """Say whether a file is DICOM by its content, whatever its name."""
    return sitk.ImageFileReader.GetImageIOFromFileName(str(path)) == "GDCMImageIO"


def find_series(folder: str | Path) -> tuple[DicomSeries, ...]:
    """List the DICOM series that lie directly in a folder.

    Args:
        folder: a folder with DICOM files, whatever their names; sub-folders are not searched.

    Returns:
        The series, sorted by UID; empty when the folder holds no DICOM image.

    Example:
        >>> import tempfile
        >>> find_series(tempfile.mkdtemp())
        ()
    """
    found = []
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
        header = _header(files[0])
        found.append(DicomSeries(_tag(header, _SERIES_UID), files, _tag(header, _STUDY_UID), _tag(header, _PATIENT_ID)))
    return tuple(sorted(found, key=lambda series: (series.uid, series.files)))


def series_files(path: str | Path, series_uid: str | None = None) -> tuple[str, ...]:
    """Find the files of the series that a folder holds or that a file belongs to.

    Args:
        path: a folder with DICOM files, or one file of such a folder.
        series_uid: the series to take from a folder that holds several; ``None`` asks for the only one.

    Returns:
        The paths of the slices, unsorted.

    Raises:
        ValueError: if the folder holds no DICOM image, several series and no ``series_uid``, or not that series.
    """
    if Path(path).is_file():
        return _series_of_file(Path(path))
    found = find_series(path)
    if not found:
        msg = f"{path}: no DICOM image in this folder; give the folder that holds the slices of one series"
        raise ValueError(msg)
    if series_uid is None and len(found) == 1:
        return found[0].files
    matching = [series.files for series in found if series.uid == series_uid]
    if not matching:
        names = ", ".join(f"{series.uid or 'no UID'} ({len(series.files)} files)" for series in found)
        wanted = f"series {series_uid} is not among" if series_uid else "expected one DICOM series, got"
        msg = f"{path}: {wanted} {names}; give series_uid, or the path of one file of the series"
        raise ValueError(msg)
    return matching[0]


def read_series(files: Sequence[str]) -> tuple[sitk.Image, np.ndarray]:
    r"""Read the slices of one series and the affine that their positions give.

    With slices sorted along the normal of the image plane and :math:`p_i` the position of slice :math:`i`, the third
    column of the affine is :math:`(p_{n-1} - p_0) / (n - 1)`. The slice thickness is not looked at, and a tilted
    gantry gives a sheared affine.

    Args:
        files: the slices of one series, in any order; one multi-frame file is read as it is.

    Returns:
        The image (float32, rescaled slice by slice) and its (4, 4) affine in LPS millimetres.

    Raises:
        ValueError: if the slices differ in size, pixel spacing or direction, or are not evenly spaced.
    """
    if len(files) == 1:
        image = sitk.ReadImage(files[0], sitk.sitkFloat32)
        return image, _image_affine(image)
    headers = [_header(file) for file in files]
    _check_same_plane(files, headers)
    positions = np.array([header.GetOrigin() for header in headers])  # (n, 3)
    plane = np.array(headers[0].GetDirection()).reshape(3, 3)
    order = np.argsort(positions @ plane[:, 2], kind="stable")
    positions = positions[order]

    step = (positions[-1] - positions[0]) / (len(files) - 1)
    _check_even(files[0], positions, step)

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([files[i] for i in order])
    reader.SetOutputPixelType(sitk.sitkFloat32)  # the first slice's integer type would cut the others' rescale slopes
    affine = np.eye(4)
    affine[:3, :2] = plane[:, :2] * np.array(headers[0].GetSpacing()[:2])
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    return reader.Execute(), affine


def _header(file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader


def _tag(header: sitk.ImageFileReader, tag: str) -> str:
    return header.GetMetaData(tag).strip("\0 ") if header.HasMetaDataKey(tag) else ""


def _series_of_file(file: Path) -> tuple[str, ...]:
    header = _header(str(file))
    if header.GetSize()[2:] > (1,):
        return (str(file),)
    uid = _tag(header, _SERIES_UID)
    return next((series.files for series in find_series(file.parent) if series.uid == uid), (str(file),))


def _image_affine(image: sitk.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return affine


def _check_same_plane(files: Sequence[str], headers: Sequence[sitk.ImageFileReader]) -> None:
    first = headers[0]
    for file, header in zip(files, headers, strict=True):
        same = (
            header.GetSize() == first.GetSize()
            and np.allclose(header.GetSpacing()[:2], first.GetSpacing()[:2], rtol=1e-3)
            and np.allclose(header.GetDirection(), first.GetDirection(), atol=1e-3)
        )
        if not same:
            msg = (
                f"{file}: size, pixel spacing or direction differs from {Path(files[0]).name} of the same series "
                "(a localizer?); put the slices of one volume into a folder of their own"
            )
            raise ValueError(msg)


def _check_even(file: str, positions: np.ndarray, step: np.ndarray) -> None:
    grid = positions[0] + np.arange(len(positions))[:, None] * step
    off_grid = np.linalg.norm(positions - grid, axis=1).max()
    distance = np.linalg.norm(step)
    if distance > 0 and off_grid <= _GRID_TOLERANCE * distance:
        return
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    msg = (
        f"{Path(file).parent}: expected evenly spaced slices, got gaps of {gaps.min():.2f} to {gaps.max():.2f} mm "
        f"over {len(positions)} slices (missing slices or several time points?); complete or split the series"
    )
    raise ValueError(msg)
