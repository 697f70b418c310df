# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One reader for every image file: NIfTI through nibabel, pictures through Pillow, NPZ, the rest through SimpleITK."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader, NibabelReader
from monai.utils import MetaKeys, ensure_tuple
from nibabel.filebasedimages import ImageFileError

from monai_essa.data.npz_images import is_npz_name, read_npz_image
from monai_essa.data.picture import PICTURE_SUFFIXES, read_picture
from monai_essa.data.simpleitk_reader import SimpleITKReader
from monai_essa.data.volume_meta import stack_channels, volume_meta

__all__ = ["VolumeReader", "read_volume"]

_NIFTI = (".nii", ".nii.gz")


class VolumeReader(ImageReader):
    """Read NIfTI by MONAI's NibabelReader and DICOM, NRRD, MetaImage by :class:`SimpleITKReader`, in one LoadImaged.

    Pictures (PNG, JPEG) are read by MONAI's PILReader, names such as ``scans.npz#train_images#12`` as
    :class:`~monai_essa.data.NPZReader` reads them.

    NIfTI stays with nibabel because ITK refuses sheared affines and chooses between qform and sform otherwise. All
    formats give the same metadata keys (the geometry only), so that their volumes can share a batch. An error is one
    line that names the file.

    Args:
        series_uid: the series to take from DICOM folders that hold several; default: the only one.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> load = LoadImaged(keys="image", reader="monai_essa.data.VolumeReader", ensure_channel_first=True)
    """

    def __init__(self, series_uid: str | None = None) -> None:
        super().__init__()
        self._itk = SimpleITKReader(series_uid)

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Say yes to every name; :meth:`get_data` refuses what it cannot open."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[str, ...]:
        """Return the paths, as :meth:`SimpleITKReader.read` does and for its reason.

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
            The array, (x, y, z) or (x, y, z, channel) or, for several paths, (channel, x, y, z); and its metadata.

        Raises:
            FileNotFoundError: if a path does not exist.
            ValueError: if a file is damaged or of more than four dimensions, or a series is not one even volume.
        """
        return stack_channels([self._volume(path) for path in img], img)

    def _volume(self, path: str) -> tuple[np.ndarray, dict[str, Any]]:
        if is_npz_name(path):
            return read_npz_image(path)
        if path.lower().endswith(PICTURE_SUFFIXES):
            return read_picture(path)
        return _nifti(path) if path.lower().endswith(_NIFTI) else self._itk.get_data((path,))


def read_volume(path: PathLike | Sequence[PathLike]) -> tuple[np.ndarray, np.ndarray]:
    """Read a volume as LoadImaged with :class:`VolumeReader` and ``ensure_channel_first`` does, without a transform.

    Args:
        path: a file, a DICOM folder, or one path for each channel.

    Returns:
        The array (channel, x, y, z) in the file's type and the (4, 4) affine, voxel to RAS millimetres.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a file cannot be read as one volume.
    """
    reader = VolumeReader()
    array, meta = reader.get_data(reader.read(path))
    channel = meta[MetaKeys.ORIGINAL_CHANNEL_DIM]
    array = array[None] if np.isnan(channel) else np.moveaxis(array, int(channel), 0)
    return array, meta[MetaKeys.AFFINE]


def _nifti(path: str) -> tuple[np.ndarray, dict[str, Any]]:
    if not Path(path).is_file():
        msg = f"{path}: no such file; correct the path in the datalist"
        raise FileNotFoundError(msg)
    reader = NibabelReader()
    try:
        array, meta = reader.get_data(reader.read(path))
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"{path}: not a NIfTI file, or a damaged one ({reason}); copy the file again"
        raise ValueError(msg) from error
    return array, volume_meta(path, array.shape, meta[MetaKeys.AFFINE])
