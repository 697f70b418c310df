# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read pictures: the 2-D images of PNG, JPEG, TIFF and BMP files."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from monai_essa.data.readers.faults import FileFault, check_regular_file, named_faults
from monai_essa.data.readers.volume import Volume, make_volume

__all__ = ["PICTURE_FORMATS", "read_picture"]

PICTURE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
"""What Pillow may open: others, whatever the file's name, may start a program (EPS)."""

_ORIENTATION = 0x0112  # the EXIF tag; 1: as it is
_PALETTE = ("P", "PA")
_NUMBERS = ("1", "L", "I", "F", "RGB")  # and the variants of 16 bits, "I;16B" and others


def read_picture(path: str, label: bool = False) -> Volume:
    """Read a picture in the colours that a viewer shows, or the class ids of a label.

    Palettes become colours, or grey if all their colours are grey; an opacity is left out; CMYK becomes
    RGB; a photograph is turned as its EXIF tag says. One-bit pixels become 0 and 1; sixteen-bit and float pixels keep
    their values.

    Args:
        path: the file.
        label: whether the picture holds class ids: the numbers of a palette's colours are then kept.

    Returns:
        The volume, (x, y) or, with colours, (x, y, channel); the affine is the identity.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFault: if it is damaged, not a picture, or holds several.
    """
    check_regular_file(path)
    with named_faults(path, "a picture"), Image.open(path, formats=PICTURE_FORMATS) as picture:
        count = getattr(picture, "n_frames", 1)
        if count > 1:
            raise FileFault(f"{path}: expected one picture, got {count} pages; save each page as a file of its own")
        upright, notes = _upright(picture)
        plain, converted = _plain(upright, label)
        array = np.moveaxis(np.asarray(plain), 0, 1)
        return make_volume(path, array, np.eye(4), array.ndim == 3, notes + converted)


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
