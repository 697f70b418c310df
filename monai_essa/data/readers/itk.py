# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read DICOM series, NRRD, MetaImage and whatever else SimpleITK opens, in RAS millimetres."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from monai_essa.data.readers.dicom import is_dicom, read_series, series_files, series_notes
from monai_essa.data.readers.nifti import check_data_files
from monai_essa.data.readers.volume import (
    DEFLATED,
    PLAIN,
    FileFault,
    Volume,
    check_declared_size,
    check_regular_file,
    make_volume,
    named_faults,
)
from monai_essa.outside import shown

__all__ = ["checked_header", "ras_affine", "read_itk_volume"]

_DETACHED = (".nhdr", ".mhd")  # headers whose voxels lie in files beside them
_HEADER_BYTES = 65536  # of the text at the beginning of an NRRD or MetaImage file
_LPS_TO_RAS = np.array([[-1.0], [-1.0], [1.0], [1.0]])
_MILLIMETRES = {"nm": 1e-6, "um": 0.001, "\u00b5m": 0.001, "\u03bcm": 0.001, "micron": 0.001, "microns": 0.001}
_MILLIMETRES |= {"mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "cm": 10.0, "m": 1000.0}
_RAW = re.compile(r"^(?:encoding:\s*raw|CompressedData\s*=\s*False)\s*$", re.IGNORECASE | re.MULTILINE)
_UNITS = re.compile(r"^(?:space units:|units:|DistanceUnits\s*=)[ \t]*(.+)$", re.IGNORECASE | re.MULTILINE)
_DIMENSIONS = re.compile(rb"^[ \t\0]*NDims[ \t]*[=:]?([^\n]*)", re.IGNORECASE | re.MULTILINE)
_META_BYTES = 2**20
_VOXEL_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}


def read_itk_volume(path: str, series_uid: str | None = None) -> Volume:
    """Read one volume.

    A folder is one DICOM series; a DICOM file stands for the series that it belongs to.

    Args:
        path: a file or a DICOM folder.
        series_uid: the series to take from a folder that holds several; default: the only one.

    Returns:
        The volume, indexed (x, y, z), channels last.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        FileFault: if a file is damaged, or a series is not one even volume.
    """
    folder = os.path.isdir(path)
    if not folder:
        check_regular_file(path)
        check_data_files(path)
    with named_faults(path, "an image that SimpleITK can read"):
        if folder or is_dicom(path):
            files = series_files(path, series_uid)
            image, affine = read_series(files)
            affine = _LPS_TO_RAS * affine
            notes = list(series_notes(files))
        else:
            checked_header(path)
            image = sitk.ReadImage(path)
            affine, notes = _in_millimetres(path, ras_affine(image))
        array = sitk.GetArrayFromImage(image)  # (z, y, x) or (z, y, x, channel)
        coloured = image.GetNumberOfComponentsPerPixel() > 1
        array = np.moveaxis(array.T, 0, -1) if coloured else array.T
        return make_volume(path, array, affine, coloured, notes)


def checked_header(path: str) -> sitk.ImageFileReader:
    """Open the header of a file other than DICOM, and check it before ITK, which trusts headers, acts on it.

    Args:
        path: a regular file that has passed :func:`~monai_essa.data.readers.nifti.check_data_files`.

    Returns:
        The reader, which has read the header and not the voxels.

    Raises:
        FileFault: if the header declares dimensions that ITK cannot take, or more voxels than its file can hold.
        RuntimeError: if ITK cannot read it.
    """
    if sitk.ImageFileReader.GetImageIOFromFileName(path) == "MetaImageIO":
        _check_dimensions(path)
    header = sitk.ImageFileReader()
    header.SetFileName(path)
    header.ReadImageInformation()
    bits = re.search(r"\d+", sitk.GetPixelIDValueAsString(header.GetPixelID()))
    voxel_bytes = _VOXEL_BYTES.get(bits.group(), 1) if bits else 1
    growth = PLAIN if _RAW.search(_header_text(path)) else DEFLATED
    check_declared_size(path, (*header.GetSize(), header.GetNumberOfComponents()), voxel_bytes, _held(path), growth)
    return header


def ras_affine(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """Return the affine of an image, or of the header that a reader has read, from voxels to RAS.

    Args:
        image: of 2 to 4 dimensions; a fourth is taken for channels.

    Returns:
        (4, 4), in the units of the file.
    """
    spatial = min(image.GetDimension(), 3)
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)
    affine = np.eye(4)
    affine[:spatial, :spatial] = direction[:spatial, :spatial] * np.array(image.GetSpacing()[:spatial])
    affine[:spatial, 3] = image.GetOrigin()[:spatial]
    return _LPS_TO_RAS * affine


def _check_dimensions(path: str) -> None:
    """Refuse a number of dimensions that would end the process: ITK uses it unchecked as the size of an array."""
    with Path(path).open("rb") as content:
        said = _DIMENSIONS.findall(content.read(_META_BYTES).replace(b"\r", b"\n"))
    if not said or not all(re.fullmatch(rb"0*([1-9]|10)", number.strip()) for number in said):
        found = ", ".join(shown(number.decode("latin-1").strip()) for number in said) or "nothing"
        raise FileFault(f"{path}: expected NDims from 1 to 10, got {found}; repair the header")


def _held(path: str) -> int:
    """Count the bytes that voxels may come from: for a detached header, those of every file beside it."""
    file = Path(path)
    files = (
        [file] if file.suffix.lower() not in _DETACHED else [part for part in file.parent.iterdir() if part.is_file()]
    )
    return sum(part.stat().st_size for part in files)


def _header_text(path: str) -> str:
    with Path(path).open("rb") as content:
        head = content.read(_HEADER_BYTES)
    if head.startswith(b"NRRD"):
        return re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0].decode("utf-8", "replace")
    text = head.partition(b"ElementDataFile")[0] if b"ElementDataFile" in head else b""
    return text.decode("utf-8", "replace")


def _in_millimetres(path: str, affine: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Scale what ITK takes for millimetres by the unit that an NRRD or MetaImage header names."""
    found = _UNITS.search(_header_text(path))
    names = {name.strip('"').lower() for name in found.group(1).split()} - {"", "???", "none"} if found else set()
    lengths = sorted(names & set(_MILLIMETRES))  # a fourth axis may be in seconds
    if len({_MILLIMETRES[name] for name in lengths}) > 1:
        raise FileFault(f"{path}: expected one unit of length, got {', '.join(lengths)}; repair the header")
    if names and not lengths:
        return affine, [f"the header's unit {min(names)!r} is unknown: millimetres are taken"]
    scale = _MILLIMETRES[lengths[0]] if lengths else 1.0
    notes = [] if scale == 1 else [f"the header is in {lengths[0]}, converted to mm"]
    affine[:3] *= scale
    return affine, notes
