# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Open an image file of any format: NIfTI by nibabel, pictures by Pillow, NPZ by NumPy, the rest by SimpleITK."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from monai_essa.data.pairing.names import PICTURE_SUFFIXES
from monai_essa.data.readers.itk import read_itk_volume
from monai_essa.data.readers.nifti import NIFTI_SUFFIXES, read_nifti
from monai_essa.data.readers.npz import is_npz_name, read_npz_image
from monai_essa.data.readers.volume import (
    FileFault,
    Volume,
    check_regular_file,
    make_volume,
    named_faults,
    stack_channels,
)

__all__ = ["PICTURE_FORMATS", "channels_first", "open_volume", "open_volumes", "read_picture", "read_volume"]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
PICTURE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
"""What Pillow may open: others, whatever the file's name, may start a program (EPS)."""
_ORIENTATION = 0x0112  # the EXIF tag; 1: as it is
_PALETTE = ("P", "PA")
_NUMBERS = ("1", "L", "I", "F", "RGB")  # and the variants of 16 bits, "I;16B" and others


def open_volume(path: str, series_uid: str | None = None, label: bool = False) -> Volume:
    """Open one file, DICOM folder or image of an NPZ file.

    Args:
        path: the file, folder, or ``FILE.npz#ARRAY#INDEX``.
        series_uid: the series to take from a DICOM folder that holds several; default: the only one.
        label: whether it holds class ids, which matters for pictures: the numbers of a palette are kept, and a mask
            that was saved in colours has one channel again.

    Returns:
        The volume.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if it cannot be read as one volume, or a mask has colours other than grey; one line that names the
            file.
    """
    if is_npz_name(path):
        return _mask(read_npz_image(path), path) if label else read_npz_image(path)
    name = path.lower()
    if os.path.isdir(path):
        return read_itk_volume(path, series_uid)
    if name.endswith(PICTURE_SUFFIXES):
        return read_picture(path, label)
    return read_nifti(path) if name.endswith(NIFTI_SUFFIXES) else read_itk_volume(path, series_uid)


def open_volumes(path: Paths, label: bool = False) -> Volume:
    """Open a file, or several as the channels of one image.

    Args:
        path: a file, a DICOM folder, or one path for each channel.
        label: as for :func:`open_volume`.

    Returns:
        The volume; of several files, with the channels first.

    Raises:
        FileNotFoundError: as for :func:`open_volume`.
        ValueError: as for :func:`open_volume`, or if the files have no common grid.
    """
    paths = [os.fspath(path)] if isinstance(path, str | os.PathLike) else [os.fspath(part) for part in path]
    return stack_channels([open_volume(part, label=label) for part in paths], paths)


def read_volume(path: Paths) -> tuple[np.ndarray, np.ndarray]:
    """Read a volume as LoadImaged with ``VolumeReader`` and ``ensure_channel_first`` does, without a transform.

    Args:
        path: a file, a DICOM folder, or one path for each channel.

    Returns:
        The array (channel, x, y, z) in the file's type and the (4, 4) affine, voxel to RAS millimetres.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a file cannot be read as one volume.
    """
    volume = open_volumes(path)
    return channels_first(volume), volume.affine


def channels_first(volume: Volume) -> np.ndarray:
    """Return the voxels with their channels in front, one where the volume has none.

    Args:
        volume: as it was opened.

    Returns:
        (channel, x, y) or (channel, x, y, z).
    """
    return volume.array[None] if volume.channel is None else np.moveaxis(volume.array, volume.channel, 0)


def read_picture(path: str, label: bool = False) -> Volume:
    """Read a picture in the colours that a viewer shows, or the class ids of a label.

    Palettes become colours, or grey if all their colours are grey; an opacity is left out; CMYK becomes
    RGB; a photograph is turned as its EXIF tag says. One-bit pixels become 0 and 1; sixteen-bit and float pixels keep
    their values.

    Args:
        path: the file.
        label: whether the picture holds class ids: the numbers of a palette's colours are then kept, and of red, green
            and blue, which have to be equal, one is taken.

    Returns:
        The volume, (x, y) or, with colours, (x, y, channel); the affine is the identity.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFault: if it is damaged, not a picture, or holds several, or if a mask has colours other than grey.
    """
    check_regular_file(path)
    with named_faults(path, "a picture"), Image.open(path, formats=PICTURE_FORMATS) as picture:
        count = getattr(picture, "n_frames", 1)
        if count > 1:
            raise FileFault(f"{path}: expected one picture, got {count} pages; save each page as a file of its own")
        upright, notes = _upright(picture)
        plain, converted = _plain(upright, label)
        array = np.moveaxis(np.asarray(plain), 0, 1)
        volume = make_volume(path, array, np.eye(4), array.ndim == 3, notes + converted)
        return _mask(volume, path) if label else volume


def _mask(volume: Volume, path: str) -> Volume:
    """Return a 2-D mask without the colours that a drawing program gave it."""
    if volume.channel is None or len(volume.spatial_shape) != 2:
        return volume
    first, *others = channels_first(volume)
    if not all(np.array_equal(first, other) for other in others):
        raise FileFault(f"{path}: expected a mask of class ids or grey values, got colours; save one channel of it")
    return Volume(first, volume.affine, None, volume.notes)


def _upright(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    if picture.getexif().get(_ORIENTATION, 1) == 1:
        return picture, []
    return ImageOps.exif_transpose(picture), ["turned upright, as its EXIF tag says"]


def _plain(picture: Image.Image, label: bool) -> tuple[Image.Image, list[str]]:
    mode = picture.mode
    if mode in _NUMBERS or mode.startswith("I;16"):
        return picture, []
    if mode in _PALETTE and label:
        ids = picture if mode == "P" else picture.getchannel(0)
        return ids, ["the numbers of the palette's colours are taken for the class ids"]
    if mode in _PALETTE:
        colours = picture.convert("RGB")
        return (colours.getchannel(0) if _is_grey(colours) else colours), ["the palette's colours are taken"]
    opaque = "A" not in picture.getbands() or picture.getchannel("A").getextrema() == (255, 255)
    notes = [] if opaque else ["the opacity is left out"]
    if mode == "LA":
        return picture.getchannel("L"), notes
    return picture.convert("RGB"), notes if mode == "RGBA" else [*notes, f"{mode} converted to RGB"]


def _is_grey(colours: Image.Image) -> bool:
    red, green, blue = np.moveaxis(np.asarray(colours), -1, 0)
    return np.array_equal(red, green) and np.array_equal(red, blue)
