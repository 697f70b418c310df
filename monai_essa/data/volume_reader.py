# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One reader for every image file, for MONAI's LoadImage: NIfTI, DICOM, NRRD, MetaImage, pictures and NPZ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from monai_essa.data.volume_file import open_volume
from monai_essa.data.volume_meta import Volume, stack_channels

__all__ = ["VolumeReader", "array_and_meta"]


class VolumeReader(ImageReader):
    """Read NIfTI, DICOM, NRRD, MetaImage, PNG, JPEG, TIFF, BMP and NPZ in one LoadImaged.

    NIfTI goes through nibabel because ITK refuses sheared affines and chooses between qform and sform otherwise; names
    such as ``scans.npz#train_images#12`` are read as :class:`~monai_essa.data.NPZReader` reads them. All formats give
    the same metadata keys (the geometry only, in millimetres), so that their volumes can share a batch. An error is one
    line that names the file.

    Files are opened by :meth:`get_data`, not by :meth:`read`: ``LoadImage`` hides every error of ``read`` and tries
    another reader, which would turn a refused file into a wrong volume.

    Args:
        series_uid: the series to take from DICOM folders that hold several; default: the only one.
        label: whether the files hold class ids. A palette's indices are then the ids; else a palette means colours.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> load = LoadImaged(keys="image", reader="monai_essa.data.VolumeReader", ensure_channel_first=True)
    """

    def __init__(self, series_uid: str | None = None, label: bool = False) -> None:
        super().__init__()
        self.series_uid = series_uid
        self.label = label

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Say yes to every name; :meth:`get_data` refuses what it cannot open."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[str, ...]:
        """Return the paths.

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
            ValueError: if a file is damaged or no image of real numbers, or a series is not one even volume.
        """
        volumes = [open_volume(path, self.series_uid, self.label) for path in img]
        return array_and_meta(stack_channels(volumes, img))


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
