# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Reads DICOM series, NRRD, MetaImage and other ITK formats for MONAI's LoadImage, through SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple

from monai_essa.data.itk_volume import read_itk_volume
from monai_essa.data.volume_meta import stack_channels
from monai_essa.data.volume_reader import array_and_meta

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
        volumes = [read_itk_volume(path, self.series_uid) for path in img]
        return array_and_meta(stack_channels(volumes, img))
