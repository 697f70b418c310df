# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read NIfTI files, and refuse detached headers that name data files elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from monai_essa.data.readers.volume import (
    DEFLATED,
    PLAIN,
    SAME_GRID,
    Volume,
    check_declared_size,
    check_regular_file,
    corner_shift,
    make_volume,
    named_faults,
)
from monai_essa.outside import inside, shown

__all__ = ["NIFTI_SUFFIXES", "check_data_files", "checked_nifti", "read_nifti"]

NIFTI_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img", ".mgz", ".mgh")
_GZIP = b"\x1f\x8b"
_UNITS = {0: ("", 1.0), 1: ("metres", 1000.0), 2: ("", 1.0), 3: ("micrometres", 0.001)}  # xyzt_units, the lower 3 bits
_HEADER_BYTES = 2**20
_META_FIELD = re.compile(r"^\s*ElementDataFile\s*[=:]\s*([^\n]*)", re.IGNORECASE | re.MULTILINE)
_NRRD_FIELD = re.compile(r"^\s*data ?file\s*:\s*([^\n]*)", re.IGNORECASE | re.MULTILINE)
_PATTERN = re.compile(r"\S+(\s+-?\d+){3}")  # a file name with a place for a number, first, last, step
_PAIRS = {".hdr": (".img", ".img.gz"), ".img": (".hdr",)}
# Formats whose files name others in ways that are not read here.
_FOLLOWING = {"HDF5ImageIO": "HDF5", "MINCImageIO": "MINC", "StimulateImageIO": "Stimulate"}


def read_nifti(path: str) -> Volume:
    """Read a file.

    The affine is that of the sform, otherwise of the qform, otherwise of the spacing alone, as in nibabel. If only the
    qform agrees with the spacing of the header, it overrides the sform, as in MONAI.

    Args:
        path: the file.

    Returns:
        The volume. Its notes say where the header had another unit, no orientation, or two that differ.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFault: if the file is damaged, declares more voxels than it holds, or is not a volume of real numbers.
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
        path: a regular file that has passed :func:`check_data_files`.

    Returns:
        nibabel's image, with no voxel read.

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


def check_data_files(path: str) -> None:
    """Check the names of the files that SimpleITK would open beside an image file.

    Args:
        path: an existing image file of any format.

    Raises:
        ValueError: if a name is absolute, leads out of the folder, also by a link, or is a pattern or standard input;
            or if the format follows names in ways of its own (HDF5, MINC, Stimulate).
    """
    reader = sitk.ImageFileReader.GetImageIOFromFileName(path)
    if reader in _FOLLOWING:
        raise ValueError(f"{path}: {_FOLLOWING[reader]} files may name other files; convert it to NIfTI or NRRD")
    names = {"MetaImageIO": _meta_names, "NrrdImageIO": _nrrd_names, "NiftiImageIO": _pair_names}.get(reader)
    for name in names(Path(path)) if names else ():
        if name == "-" or "%" in name or _PATTERN.fullmatch(name):
            raise ValueError(f"{path}: expected the name of its data file, got {shown(name)}; list the files by name")
        inside(Path(path).parent, name, f"{path}: its data file")


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
    except nib.spatialimages.HeaderDataError:  # quaternions that are not a rotation; the sform does without them
        return None


def _spacing(affine: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def _voxels(image: Any) -> tuple[np.ndarray, bool]:
    array = np.asanyarray(image.dataobj)
    if array.dtype.names is None:
        return array, False
    colours = [array[name] for name in array.dtype.names if name in ("R", "G", "B")]  # without the opacity of RGBA
    return np.stack(colours, axis=-1), True


def _meta_names(path: Path) -> Iterator[str]:
    text = _head(path)
    for match in _META_FIELD.finditer(text):
        yield from _named(match[1].strip(), text[match.end() :])


def _nrrd_names(path: Path) -> Iterator[str]:
    text = _head(path)
    for match in _NRRD_FIELD.finditer(text):
        yield from _named(match[1].strip(), text[match.end() :])


def _pair_names(path: Path) -> Iterator[str]:
    for suffix in _PAIRS.get(path.suffix.lower(), ()):
        yield from (name for name in (path.stem + suffix, path.stem + suffix.upper()) if (path.parent / name).exists())


def _named(value: str, rest: str) -> Iterator[str]:
    """Yield what a field names: nothing for the file itself, one file, or the lines after LIST."""
    if value.split(" ")[0].upper() == "LIST":
        yield from filter(None, map(str.strip, rest.split("\n")))
    elif value.upper() != "LOCAL":
        yield value


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return re.sub("[\r\n]+", "\n", file.read(_HEADER_BYTES).decode("latin-1"))
