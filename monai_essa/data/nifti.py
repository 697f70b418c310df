# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""NIfTI, Analyze and FreeSurfer MGH files, by nibabel, in millimetres whatever unit their header has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monai_essa.data.detached_header import check_data_files
from monai_essa.data.file_faults import DEFLATED, PLAIN, check_declared_size, check_regular_file, named_faults
from monai_essa.data.volume_meta import SAME_GRID, Volume, corner_shift, make_volume

__all__ = ["NIFTI_SUFFIXES", "checked_nifti", "read_nifti"]

NIFTI_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img", ".mgz", ".mgh")

_GZIP = b"\x1f\x8b"
_UNITS = {0: ("", 1.0), 1: ("metres", 1000.0), 2: ("", 1.0), 3: ("micrometres", 0.001)}  # xyzt_units, the lower 3 bits


def read_nifti(path: str) -> Volume:
    """Read a file.

    The affine is that of the sform, else the qform, else the spacing alone, as nibabel has it. A sform whose spacing is
    not that of the header gives way to a qform that agrees with the header, as in MONAI.

    Args:
        path: the file.

    Returns:
        The volume. Its notes say where the header had another unit, no orientation, or two that differ.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFault: if the file is damaged, declares more voxels than it holds, or is no volume of real numbers.
    """
    check_regular_file(path)
    check_data_files(path)
    with named_faults(path, "a NIfTI file"):
        image = checked_nifti(path)
        affine, notes = _geometry(image)
        array, coloured = _voxels(image)
        return make_volume(path, array, affine, coloured, notes)


def checked_nifti(path: str) -> Any:
    """Open the header of a file that nibabel reads, and check that the file can hold what it declares.

    Args:
        path: a regular file, whose data file :func:`~monai_essa.data.detached_header.check_data_files` has taken.

    Returns:
        nibabel's image, of which no voxel was read.

    Raises:
        FileFault: if the header declares more voxels than its file can hold.
    """
    image: Any = nib.load(path)
    file = next((held.filename for name, held in image.file_map.items() if name == "image" and held.filename), path)
    check_regular_file(file)  # the other half of a pair of .hdr and .img
    with Path(file).open("rb") as content:
        growth = DEFLATED if content.read(2) == _GZIP else PLAIN
    held = Path(file).stat().st_size
    check_declared_size(path, image.shape, image.get_data_dtype().itemsize, held, growth)
    return image


def _geometry(image: Any) -> tuple[np.ndarray, list[str]]:
    if not isinstance(image, nib.Nifti1Pair | nib.Nifti2Pair):
        analyze = isinstance(image, nib.analyze.AnalyzeImage)
        notes = ["an Analyze file does not tell left from right: x is taken to run to the left"] if analyze else []
        return np.array(image.affine, dtype=float), notes
    affine, notes = _placed(image)
    unit, scale = _UNITS.get(int(image.header["xyzt_units"]) & 7, ("an unknown unit", 1.0))
    if unit:
        notes.append(f"the header is in {unit}" + (": millimetres are taken" if scale == 1 else ", converted to mm"))
    affine[:3] *= scale
    return affine, notes


def _placed(image: Any) -> tuple[np.ndarray, list[str]]:
    sform, qform = image.get_sform(coded=True)[0], _coded_qform(image)
    if sform is None and qform is None:
        return np.array(image.affine), ["sform and qform codes are 0: the orientation is a guess"]
    if sform is None or qform is None:
        return np.array(image.affine), []
    spacing = np.asarray(image.header.get_zooms()[:3], dtype=float)
    agrees = [np.allclose(_spacing(form)[: len(spacing)], spacing) for form in (sform, qform)]
    taken, name = (qform, "qform") if agrees == [False, True] else (sform, "sform")
    notes = []
    if np.isfinite([sform, qform]).all() and corner_shift(image.shape[:3], taken, sform + qform - taken) > SAME_GRID:
        notes = [f"sform and qform place the voxels differently: the {name} is taken"]
    return np.array(taken), notes


def _coded_qform(image: Any) -> np.ndarray | None:
    try:
        return image.get_qform(coded=True)[0]
    except nib.spatialimages.HeaderDataError:  # quaternions of no rotation, which the sform makes needless
        return None


def _spacing(affine: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def _voxels(image: Any) -> tuple[np.ndarray, bool]:
    array = np.asanyarray(image.dataobj)
    if array.dtype.names is None:
        return array, False
    colours = [array[name] for name in array.dtype.names if name in ("R", "G", "B")]  # without the opacity of RGBA
    return np.stack(colours, axis=-1), True
