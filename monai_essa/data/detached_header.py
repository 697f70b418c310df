# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Image headers that name the files of their voxels: only files beside them or below their folder are opened.

NRRD (``data file:``), MetaImage (``ElementDataFile =``) and pairs of ``.hdr`` and ``.img`` keep voxels in other files.
A header from elsewhere could name any file of this computer, which would come back as an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import SimpleITK as sitk

from monai_essa.outside import inside, shown

__all__ = ["check_data_files"]

_HEADER_BYTES = 2**20
_META_FIELD = re.compile(r"^\s*ElementDataFile\s*[=:]\s*([^\n]*)", re.IGNORECASE | re.MULTILINE)
_NRRD_FIELD = re.compile(r"^\s*data ?file\s*:\s*([^\n]*)", re.IGNORECASE | re.MULTILINE)
_PATTERN = re.compile(r"\S+(\s+-?\d+){3}")  # a file name with a place for a number, first, last, step
_PAIRS = {".hdr": (".img", ".img.gz"), ".img": (".hdr",)}
# Formats whose files name others in ways that are not read here.
_FOLLOWING = {"HDF5ImageIO": "HDF5", "MINCImageIO": "MINC", "StimulateImageIO": "Stimulate"}


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
