# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Whether a submitted label lies on the voxels of its image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from monai_essa.data import read_volume
from monai_essa.data.volume_meta import SAME_GRID, corner_shift
from monai_essa.error_line import one_line

__all__ = ["label_problem"]

_NIFTI = (".nii", ".nii.gz")
_UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, MemoryError, ImageFileError, HeaderDataError)


def label_problem(label: Path, image: Path, where: str) -> str | None:
    """Read a label, and say in a line what is wrong with it; None if it fits its image.

    Args:
        label: as it was submitted.
        image: the volume that it is of.
        where: what the line names.
    """
    try:
        voxels, affine = read_volume(label)
        shape, image_affine = _grid(image)
    except _UNREADABLE as error:
        return f"{where}: cannot be read as a label of {image.name}: {one_line(error)}"
    if voxels.shape[0] != 1:
        return f"{where}: expected one channel, got {voxels.shape[0]}; merge the segments into one map of ids"
    if voxels.shape[1:] != shape:
        return f"{where}: expected the shape of {image.name}, {shape}, got {voxels.shape[1:]}; draw it on that volume"
    if not np.isfinite(affine).all() or corner_shift(shape, image_affine, affine) > SAME_GRID:
        return (
            f"{where}: expected the place of {image.name}, got an affine that moves a corner by "
            f"{corner_shift(shape, image_affine, affine):.1f} voxels; shapes {shape} and {voxels.shape[1:]}"
        )
    return None


def _grid(image: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Read shape and affine of a volume; of NIfTI the header alone."""
    if image.name.lower().endswith(_NIFTI):
        volume: Any = nib.load(image)
        return tuple(volume.shape[:3]), volume.affine
    array, affine = read_volume(image)
    return array.shape[1:], affine
