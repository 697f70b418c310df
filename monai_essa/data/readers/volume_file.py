# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Open an image file of any format: NIfTI by nibabel, pictures by Pillow, NPZ by NumPy, the rest by SimpleITK."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from monai_essa.data.pairing.names import PICTURE_SUFFIXES
from monai_essa.data.readers.itk import read_itk_volume
from monai_essa.data.readers.nifti import NIFTI_SUFFIXES, read_nifti
from monai_essa.data.readers.npz import is_npz_name, read_npz_image
from monai_essa.data.readers.pictures import read_picture
from monai_essa.data.readers.volume import Volume, stack_channels

__all__ = ["channels_first", "open_volume", "open_volumes", "read_volume"]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def open_volume(path: str, series_uid: str | None = None, label: bool = False) -> Volume:
    """Open one file, DICOM folder or image of an NPZ file.

    Args:
        path: the file, folder, or ``FILE.npz#ARRAY#INDEX``.
        series_uid: the series to take from a DICOM folder that holds several; default: the only one.
        label: whether it holds class ids, which matters for pictures with a palette.

    Returns:
        The volume.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if it cannot be read as one volume; one line that names the file.
    """
    if is_npz_name(path):
        return read_npz_image(path)
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
