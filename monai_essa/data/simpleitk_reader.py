# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Reads DICOM series, NRRD, MetaImage and other ITK formats for MONAI's LoadImage, through SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from monai.config import PathLike
from monai.data import ImageReader
from monai.data.utils import orientation_ras_lps
from monai.utils import ensure_tuple

from monai_essa.data.detached_header import check_data_files
from monai_essa.data.dicom_series import is_dicom, read_series, series_files
from monai_essa.data.volume_meta import stack_channels, volume_meta

__all__ = ["SimpleITKReader"]


class SimpleITKReader(ImageReader):
    """Read one volume per path: a DICOM series, NRRD, MHA/MHD, or whatever else SimpleITK opens.

    A folder is one DICOM series; a DICOM file stands for the series that it belongs to. The array is indexed
    (x, y, z), channels last, and the affine is in RAS millimetres, as :class:`monai.data.NibabelReader` gives them.
    The metadata hold the geometry only: no DICOM tag or header text, so no name of a patient, leaves the file.

    Files are opened by :meth:`get_data`, not by :meth:`read`: ``LoadImage`` hides every error of ``read`` and tries
    another reader, which would turn a refused series into a wrong volume.

    Args:
        series_uid: the series to take from a folder that holds several; default: the only one.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> load = LoadImaged(keys="image", reader=SimpleITKReader(), ensure_channel_first=True)
    """

    def __init__(self, series_uid: str | None = None) -> None:
        super().__init__()
        self.series_uid = series_uid

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Say yes to every name: DICOM files have none that tells, and :meth:`get_data` refuses what it cannot open."""
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
            The array, (x, y, z) or (x, y, z, channel) or, for several paths, (channel, x, y, z); and its metadata.

        Raises:
            FileNotFoundError: if a path does not exist.
            ValueError: if a file is damaged, has more than four dimensions, or a series is not one even volume.
        """
        return stack_channels([self._volume(path) for path in img], img)

    def _volume(self, path: str) -> tuple[np.ndarray, dict[str, Any]]:
        if not Path(path).exists():
            msg = f"{path}: no such file or folder; correct the path in the datalist"
            raise FileNotFoundError(msg)
        image, affine = self._open(path)
        array = sitk.GetArrayFromImage(image)
        if image.GetNumberOfComponentsPerPixel() > 1:
            array = np.moveaxis(array.T, 0, -1)
        else:
            array = array.T
        return array, volume_meta(path, array.shape, orientation_ras_lps(affine))

    def _open(self, path: str) -> tuple[sitk.Image, np.ndarray]:
        try:
            if Path(path).is_dir() or is_dicom(path):
                return read_series(series_files(path, self.series_uid))
            check_data_files(path)
            image = sitk.ReadImage(path)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            msg = f"{path}: not an image that SimpleITK can read, or a damaged one ({reason}); copy the file again"
            raise ValueError(msg) from error
        return image, _affine(image)


def _affine(image: sitk.Image) -> np.ndarray:
    spatial = min(image.GetDimension(), 3)  # a fourth dimension is taken for channels
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)
    affine = np.eye(4)
    affine[:spatial, :spatial] = direction[:spatial, :spatial] * np.array(image.GetSpacing()[:spatial])
    affine[:spatial, 3] = image.GetOrigin()[:spatial]
    return affine
