# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Find the images of a prediction, name its results, and move all of them or none into their folder."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from monai_essa.data.lists.read import load_datalist, read_datalist, section_items
from monai_essa.data.pairing.names import PICTURE_SUFFIXES, VOLUME_SUFFIXES
from monai_essa.data.readers.folder import find_pictures, find_volumes
from monai_essa.data.readers.nifti import NIFTI_SUFFIXES
from monai_essa.data.readers.volume import check_regular_file

__all__ = ["Image", "check_output", "find_images", "first_path", "result_names", "whole_output"]

Image = str | tuple[str, ...]
"""A file, a DICOM folder or an image of an NPZ file, or one for each channel."""

logger = logging.getLogger(__name__)
_DATALISTS = (".json", ".npz")
_NPZ_NAME = re.compile(r"\.npz#|#", re.IGNORECASE)
_SUFFIXES = sorted({*VOLUME_SUFFIXES, *NIFTI_SUFFIXES, *PICTURE_SUFFIXES}, key=len, reverse=True)


def find_images(path: Path, section: str | None = None) -> list[Image]:
    """List the images of an input.

    Args:
        path: a file; a folder, whose volumes are taken or, where it has none, its pictures; or a data list (JSON, NPZ).
        section: the section of the data list; default: all.

    Returns:
        The images, each once, with absolute paths.

    Raises:
        FileNotFoundError: if the input, or a file that the data list names, does not exist.
        ValueError: if the input is a FIFO or a device, holds no image, or is not a data list though a section is named.
    """
    if path.is_dir():
        images: list[Image] = [*_in_folder(path)]
    else:
        check_regular_file(path)
        images = _listed(path, section) if path.suffix.lower() in _DATALISTS else [os.path.abspath(path)]
    if section is not None and path.suffix.lower() not in _DATALISTS:
        raise ValueError(f"{path}: expected a data list because a section is named; leave out --section")
    if not images:
        raise ValueError(f"{path}: expected NIfTI, NRRD, MetaImage or DICOM volumes, or pictures; found none")
    return list(dict.fromkeys(images))


def first_path(image: Image) -> str:
    """Return the path of an image, or that of its first channel."""
    return image if isinstance(image, str) else image[0]


def result_names(images: Sequence[Image]) -> dict[str, str]:
    """Name the results of images uniquely, each by the path of its image below the folder that all share.

    The suffix of an image format is left out if the name stays unique. Other dots are part of the name, as in DICOM
    series.

    Args:
        images: the images, with absolute paths.

    Returns:
        A relative path with forward slashes and without suffix, by the first path of each image.

    Raises:
        ValueError: if two images begin with the same path.

    Example:
        >>> result_names(["/in/p1/ct.nii.gz", "/in/p2/1.2.3", "/in/p3.nii", "/in/p3.nrrd"])
        {'/in/p1/ct.nii.gz': 'p1/ct', '/in/p2/1.2.3': 'p2/1.2.3', '/in/p3.nii': 'p3.nii', '/in/p3.nrrd': 'p3.nrrd'}
    """
    paths = [first_path(image) for image in images]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]}: two images begin with this file; list it once")
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    full = [Path(os.path.relpath(path, root)).as_posix() for path in paths]
    short = [_without_suffix(path, name) for path, name in zip(paths, full, strict=True)]
    counts = Counter(name.casefold() for name in short)  # some file systems do not tell A from a
    names = [brief if counts[brief.casefold()] == 1 else name for brief, name in zip(short, full, strict=True)]
    if len({name.casefold() for name in names}) < len(names):  # such as a.nii, a.nrrd and a.nii.png
        names = full
    return dict(zip(paths, names, strict=True))


def check_output(folder: Path) -> None:
    """Refuse a folder for results that is not empty.

    Args:
        folder: a new or empty folder.

    Raises:
        FileExistsError: if the folder holds files, or is a file.
        ValueError: if its path has a meaning in MONAI's configuration files.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds files already; give --output an empty or a new folder")
    if "#" in str(folder) or "::" in str(folder):
        raise ValueError(
            f"{folder}: '#' and '::' join the names of MONAI's configuration; give --output another folder"
        )


@contextmanager
def whole_output(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to, whose files move to the output at the end; an error leaves none behind.

    Args:
        folder: the new or empty folder for the results.

    Yields:
        A new folder in it.

    Raises:
        FileExistsError: as :func:`check_output`, or if a file of that name has appeared meanwhile.
        ValueError: as :func:`check_output`.
    """
    check_output(folder)
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        yield partial
        for file in sorted(path for path in partial.rglob("*") if path.is_file()):
            _move(file, folder / file.relative_to(partial))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # it holds the results
            for part in missing:
                part.rmdir()


def _move(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise FileExistsError(f"{target} exists already; give --output an empty or a new folder")
    os.replace(file, target)


def _in_folder(folder: Path) -> list[str]:
    """List the volumes or, if there are none, the pictures: pictures beside volumes are previews."""
    found, pictures = find_volumes(folder), find_pictures(folder)
    if pictures and found != pictures:
        first = pictures[0].path
        logger.warning(f"{folder}: pictures beside volumes are passed over ({len(pictures)}, such as {first})")
    return [os.path.abspath(volume.path) for volume in found]


def _listed(path: Path, section: str | None) -> list[Image]:
    sections = [section] if section else [name for name, items in section_items(read_datalist(path)) if items]
    items = load_datalist(path, sections, keys=("image",)) if sections else []
    return [_absolute(item["image"], path) for item in items]


def _absolute(image: object, datalist: Path) -> Image:
    if isinstance(image, str) and image:
        return os.path.abspath(image)
    if isinstance(image, list) and image and all(isinstance(part, str) for part in image):
        return tuple(os.path.abspath(part) for part in image)
    raise ValueError(f"{datalist}: expected the path of an image, or a list of paths, got {image!r}; correct the item")


def _without_suffix(path: str, name: str) -> str:
    if os.path.isdir(path):
        return name
    suffix = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), "")
    stem = name[: len(name) - len(suffix)]
    return _NPZ_NAME.sub("_", stem) if stem and not stem.endswith("/") else name
