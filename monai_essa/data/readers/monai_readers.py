# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Readers for MONAI's LoadImaged: any volume file, SimpleITK's formats alone, images in NPZ files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from monai_essa.data.readers.itk import read_itk_volume
from monai_essa.data.readers.npz import is_npz_name, read_npz_image
from monai_essa.data.readers.volume import Volume, stack_channels
from monai_essa.data.readers.volume_file import open_volume

__all__ = ["NPZReader", "SimpleITKReader", "VolumeReader", "array_and_meta"]


class _PathReader(ImageReader):
    """A reader that opens its files in :meth:`get_data`, one volume for each path.

    ``LoadImage`` hides every error of ``read`` and tries another reader, which would turn a refused file into a wrong
    volume.
    """

    @abstractmethod
    def _open(self, path: str) -> Volume:
        """Open one file."""

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Accept every name: DICOM files have none that tells, and :meth:`get_data` refuses what it cannot open."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[str, ...]:
        """Return the paths; several paths become the channels of one image.

        Args:
            data: a path, or one path for each channel.
            kwargs: ignored; part of MONAI's interface.

        Returns:
            The paths as text.
        """
        return tuple(str(path) for path in ensure_tuple(data))

    def get_data(self, img: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
        """Open the files that :meth:`read` named.

        Args:
            img: the paths that :meth:`read` returned.

        Returns:
            The array, (x, y[, z]), (x, y[, z], channel) or, for several paths, (channel, x, y[, z]); and its metadata.

        Raises:
            FileNotFoundError: if a path does not exist.
            ValueError: if a file is damaged or no image of real numbers, or a series is not one even volume.
        """
        return array_and_meta(stack_channels([self._open(path) for path in img], img))


class VolumeReader(_PathReader):
    """Read NIfTI, DICOM, NRRD, MetaImage, PNG, JPEG, TIFF, BMP and NPZ in one LoadImaged.

    NIfTI goes through nibabel because ITK refuses sheared affines and chooses between qform and sform otherwise; names
    such as ``scans.npz#train_images#12`` are read as :class:`~monai_essa.data.NPZReader` reads them. All formats have
    the same metadata keys (the geometry only, in millimetres), so that their volumes can share a batch. An error is one
    line that names the file.

    Args:
        series_uid: the series to take from DICOM folders that hold several; default: the only one.
        label: whether the files hold class ids. The indices of a palette are then the ids; otherwise a palette means
            colours.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> load = LoadImaged(keys="image", reader="monai_essa.data.VolumeReader", ensure_channel_first=True)
    """

    def __init__(self, series_uid: str | None = None, label: bool = False) -> None:
        super().__init__()
        self.series_uid = series_uid
        self.label = label

    def _open(self, path: str) -> Volume:
        return open_volume(path, self.series_uid, self.label)


class SimpleITKReader(_PathReader):
    """Read one volume per path: a DICOM series, NRRD, MHA/MHD, or whatever else SimpleITK opens.

    A folder is one DICOM series; a DICOM file stands for the series that it belongs to. The array is indexed
    (x, y, z), channels last, and the affine is in RAS millimetres, as for :class:`monai.data.NibabelReader`.
    The metadata hold the geometry only: no DICOM tag or header text, so no name of a patient, leaves the file.

    Args:
        series_uid: the series to take from a folder that holds several; default: the only one.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> load = LoadImaged(keys="image", reader=SimpleITKReader(), ensure_channel_first=True)
    """

    def __init__(self, series_uid: str | None = None) -> None:
        super().__init__()
        self.series_uid = series_uid

    def _open(self, path: str) -> Volume:
        return read_itk_volume(path, self.series_uid)


class NPZReader(_PathReader):
    """Open single images of NPZ files by names such as ``"pneumonia.npz#train_images#12"``.

    The arrays of a file stay in memory, the last few of them. Axes are turned to (x, y) or (x, y, z), as ``LoadImaged``
    has them for PNG and NIfTI files, so a network trained on the NPZ file fits the same images as single files.
    Such a file has no geometry: the affine is the identity.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> load = LoadImaged(keys="image", reader="monai_essa.data.NPZReader", ensure_channel_first=True)
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Say whether every name is that of an image in an NPZ file."""
        return all(is_npz_name(name) for name in ensure_tuple(filename))

    def _open(self, path: str) -> Volume:
        return read_npz_image(path)


def array_and_meta(volume: Volume) -> tuple[np.ndarray, dict[str, Any]]:
    """Describe a volume as MONAI's readers do, with the same keys for every format, so that any files share a batch.

    Args:
        volume: as it was opened.

    Returns:
        The array, and affine, original_affine, spatial_shape, original_channel_dim and space.
    """
    return volume.array, {
        MetaKeys.AFFINE: volume.affine,
        MetaKeys.ORIGINAL_AFFINE: volume.affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.array(volume.spatial_shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if volume.channel is None else volume.channel,
        MetaKeys.SPACE: SpaceKeys.RAS,
    }
