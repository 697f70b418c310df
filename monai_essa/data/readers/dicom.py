# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read one DICOM series as a volume whose slice spacing comes from the slice positions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from monai_essa.data.readers.volume import FileFault, check_declared_size, check_regular_file

__all__ = ["DicomSeries", "find_series", "is_dicom", "read_series", "series_files", "series_notes"]

_GRID_TOLERANCE = 0.1  # of the slice distance: a missing slice is off by half of it, rounded positions by a few percent
_STUDY_UID, _SERIES_UID, _PATIENT_ID = "0020|000d", "0020|000e", "0010|0020"
_POSITION, _MODALITY, _PHOTOMETRIC = "0020|0032", "0008|0060", "0028|0004"
_SLICE_SPACING, _THICKNESS = "0018|0088", "0018|0050"
_PIXEL_SPACINGS = ("0028|0030", "0018|1164", "0018|2010")  # in the patient, at the detector, of a scanned film
_STACKED = ("CT", "MR", "PT", "NM")  # without positions their slices are a broken stack, not pictures one by one
_MOST_EXPANSION = 1e6  # JPEG 2000 packs an empty frame into a few bytes, so only absurd sizes are refused

_STORAGE_CLASS = re.compile(rb"\x02\x00\x02\x00UI..([0-9.]+)", re.DOTALL)  # (0002,0002), what kind of object it is
_PREAMBLE, _MAGIC, _META_BYTES = 128, b"DICM", 1024


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
    return Path(path).is_file() and sitk.ImageFileReader.GetImageIOFromFileName(str(path)) == "GDCMImageIO"


def find_series(folder: str | Path) -> tuple[DicomSeries, ...]:
    """List the DICOM series that lie directly in a folder.

    Args:
        folder: a folder with DICOM files, whatever their names; sub-folders are not searched.

    Returns:
        The series, sorted by UID; empty when the folder holds no DICOM image. An image without a position, such as an
        X-ray, is a series of its own.

    Raises:
        FileFault: if a file of the folder is a FIFO, a device or a damaged slice: without it the volume would be
            shorter, in silence.

    Example:
        >>> import tempfile
        >>> find_series(tempfile.mkdtemp())
        ()
    """
    inside = [path for path in sorted(Path(folder).iterdir()) if not path.is_dir()]
    for path in inside:  # GDCM would open FIFOs, and ends its list at a link that leads nowhere
        if not path.exists():
            raise FileFault(f"{path}: a link that leads nowhere among DICOM files; repair or remove it")
        check_regular_file(path)
    found: list[DicomSeries] = []
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
        found += _series(files)
    _check_no_damaged_slice(inside, {file for series in found for file in series.files})
    return tuple(sorted(found, key=lambda series: (series.uid, series.files)))


def series_files(path: str | Path, series_uid: str | None = None) -> tuple[str, ...]:
    """Find the files of the series that a folder holds or that a file belongs to.

    Args:
        path: a folder with DICOM files, or one file of such a folder.
        series_uid: the series to take from a folder that holds several; default: the only one.

    Returns:
        The paths of the slices, unsorted.

    Raises:
        FileFault: if the folder holds no DICOM image, several series and no ``series_uid``, or not that series.
    """
    if Path(path).is_file():
        return _series_of_file(Path(path))
    found = find_series(path)
    if not found:
        msg = f"{path}: no DICOM image in this folder; give the folder that holds the slices of one series"
        raise FileFault(msg)
    if series_uid is None and len(found) == 1:
        return found[0].files
    matching = [series.files for series in found if series.uid == series_uid]
    if len(matching) != 1:
        names = ", ".join(f"{series.uid or 'no UID'} ({len(series.files)} files)" for series in found)
        missing = series_uid is not None and not matching
        wanted = f"series {series_uid} is not among" if missing else "expected one DICOM series, got"
        msg = f"{path}: {wanted} {names}; give series_uid, or the path of one file of the series"
        raise FileFault(msg)
    return matching[0]


def read_series(files: Sequence[str]) -> tuple[sitk.Image, np.ndarray]:
    r"""Read the slices of one series and the affine that their positions give.

    With slices sorted along the normal of the image plane and :math:`p_i` the position of slice :math:`i`, the third
    column of the affine is :math:`(p_{n-1} - p_0) / (n - 1)`. The slice thickness is ignored, and the affine of a
    tilted gantry is sheared. A single slice has no neighbour: its third column is the spacing between slices of
    its header, else the thickness, else 1 mm. X-rays have the pixel spacing in the patient, else that at the detector.

    Args:
        files: the slices of one series, in any order; one multi-frame file is read as it is.

    Returns:
        The image (float32, rescaled slice by slice, MONOCHROME1 inverted, colours as components) and its (4, 4) affine
        in LPS millimetres.

    Raises:
        FileFault: if the slices differ in size, pixel spacing or direction, or are not evenly spaced.
    """
    if len(files) == 1:
        header = _header(files[0])
        image = sitk.ReadImage(files[0], _pixel_type(header))
        return image, _file_affine(header)
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
    reader.SetOutputPixelType(_pixel_type(headers[0]))
    affine = np.eye(4)
    affine[:3, :2] = plane[:, :2] * np.array(headers[0].GetSpacing()[:2])
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    return reader.Execute(), affine


def series_notes(files: Sequence[str]) -> tuple[str, ...]:
    """Say what :func:`read_series` converts or guesses in a series.

    Args:
        files: the slices.

    Returns:
        One sentence each.
    """
    header = _header(files[0])
    notes = []
    if _tag(header, _PHOTOMETRIC) == "MONOCHROME1":
        notes.append("MONOCHROME1, inverted: bright is dense")
    if len(files) == 1 and header.GetSize()[2:] == (1,) and _tag(header, _POSITION) and not _slice_distance(header):
        notes.append("the slice has no thickness: 1 mm is taken")
    return tuple(notes)


def _header(file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    check_declared_size(file, reader.GetSize(), 1, Path(file).stat().st_size, _MOST_EXPANSION)
    return reader


def _tag(header: sitk.ImageFileReader, tag: str) -> str:
    return header.GetMetaData(tag).strip("\0 ") if header.HasMetaDataKey(tag) else ""


def _numbers(header: sitk.ImageFileReader, tag: str) -> list[float]:
    """Read the positive numbers of a tag; none if the text holds anything else."""
    try:
        numbers = [float(text) for text in _tag(header, tag).split("\\")]
    except ValueError:
        return []
    return numbers if all(0 < number < math.inf for number in numbers) else []


def _slice_distance(header: sitk.ImageFileReader) -> float | None:
    found = [numbers[0] for tag in (_SLICE_SPACING, _THICKNESS) if (numbers := _numbers(header, tag))]
    return found[0] if found else None


def _pixel_type(header: sitk.ImageFileReader) -> int:
    # The first slice's integer type would cut the others' rescale slopes.
    return int(sitk.sitkVectorFloat32 if header.GetNumberOfComponents() > 1 else sitk.sitkFloat32)


def _file_affine(header: sitk.ImageFileReader) -> np.ndarray:
    spacing = np.array(header.GetSpacing())
    if header.GetSize()[2:] == (1,):
        pixel = next((found for tag in _PIXEL_SPACINGS if len(found := _numbers(header, tag)) == 2), None)
        if pixel:
            spacing[:2] = pixel[::-1]  # DICOM names the distance of the rows first, which run along x
        spacing[2] = _slice_distance(header) or 1.0
    affine = np.eye(4)
    affine[:3, :3] = np.array(header.GetDirection()).reshape(3, 3) * spacing
    affine[:3, 3] = header.GetOrigin()
    return affine


def _series(files: Sequence[str]) -> Iterator[DicomSeries]:
    header = _header(files[0])
    series = DicomSeries(_tag(header, _SERIES_UID), tuple(files), _tag(header, _STUDY_UID), _tag(header, _PATIENT_ID))
    if _stands_alone(header):
        yield from (replace(series, files=(file,)) for file in files)
    else:
        yield series


def _stands_alone(header: sitk.ImageFileReader) -> bool:
    """Say whether a file is a volume of several frames, or a picture without a place in a stack, such as an X-ray."""
    frames = header.GetSize()[2:] > (1,)
    return frames or (not _tag(header, _POSITION) and _tag(header, _MODALITY) not in _STACKED)


def _series_of_file(file: Path) -> tuple[str, ...]:
    header = _header(str(file))
    if _stands_alone(header):
        return (str(file),)
    uid = _tag(header, _SERIES_UID)
    return next((series.files for series in find_series(file.parent) if series.uid == uid), (str(file),))


def _check_no_damaged_slice(inside: Sequence[Path], slices: Set[str]) -> None:
    """Refuse a DICOM file that cannot be opened if it is of the slices' kind, or too short to tell its kind."""
    kind = next((_storage_class(Path(file)) for file in slices), None) or b""
    for path in inside if kind else ():
        found = None if str(path) in slices else _storage_class(path)
        if found is not None and kind.startswith(found) and not is_dicom(path):
            raise FileFault(f"{path}: a DICOM slice that is damaged or cut short; copy the file again")


def _storage_class(path: Path) -> bytes | None:
    """Read what kind of object a DICOM file holds; empty if it is cut before that, ``None`` if it is not DICOM."""
    with path.open("rb") as content:
        head = content.read(_META_BYTES)
    if head[_PREAMBLE : _PREAMBLE + len(_MAGIC)] != _MAGIC:
        return None
    found = _STORAGE_CLASS.search(head)
    return found.group(1) if found else b""


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
            raise FileFault(msg)


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
    raise FileFault(msg)
