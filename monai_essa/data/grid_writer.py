# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Writes what a network made of a scan on the very grid on which the scan was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from monai.config import NdarrayOrTensor
from monai.data import NibabelWriter
from monai.data.utils import to_affine_nd
from monai.utils import convert_data_type

from monai_essa.data.volume_meta import SAME_GRID, corner_shift

__all__ = ["ScanGridWriter"]


class ScanGridWriter(NibabelWriter):
    """Write NIfTI as MONAI's NibabelWriter does, without its losses where a result lies on the voxels of its scan.

    A scan of one slice keeps its third axis and thickness, also when a 2-D network has seen it without, and the affine
    is the scan's to the last digit. A result on another grid is written as it is.

    Example:
        >>> from monai.transforms import SaveImaged
        >>> save = SaveImaged(keys="pred", writer="monai_essa.data.grid_writer.ScanGridWriter", resample=False)
    """

    def set_data_array(
        self, data_array: NdarrayOrTensor, channel_dim: int | None = 0, squeeze_end_dims: bool = True, **kwargs: Any
    ) -> None:
        """Take the voxels; SaveImage says that a slice has no channels when its metadata name three axes.

        Args:
            data_array: (C, spatial...).
            channel_dim: ignored; MONAI's transforms put channels first.
            squeeze_end_dims: ignored.
            kwargs: ignored.
        """
        super().set_data_array(data_array, channel_dim=0, squeeze_end_dims=False, spatial_ndim=3)

    def set_metadata(self, meta_dict: Mapping | None, resample: bool = True, **options: Any) -> None:
        """Take the geometry, resampled to the scan's if that is asked for.

        Args:
            meta_dict: affine, original_affine and spatial_shape.
            resample: whether to bring the voxels to the original affine.
            options: as of MONAI's writer.
        """
        original, affine, shape = self.get_meta_info(meta_dict)
        if resample:
            super().set_metadata(meta_dict, True, **options)
        else:
            self.affine = affine
            self.output_dtype = self.output_dtype or getattr(self.data_obj, "dtype", None)
        array = np.asarray(convert_data_type(self.data_obj, np.ndarray)[0])  # (x, y, z, C)
        rank = 3 if shape is None else len(shape)
        if array.shape[2] == 1 and rank == 2:
            array = array[:, :, 0]
        self.data_obj = array[..., 0] if array.shape[-1] == 1 else array
        if original is not None and self.affine is not None and shape is not None:
            self._take_grid_of_scan(np.asarray(original, dtype=float), tuple(int(length) for length in shape))

    def _take_grid_of_scan(self, original: np.ndarray, shape: tuple[int, ...]) -> None:
        affine = np.asarray(convert_data_type(self.affine, np.ndarray)[0], dtype=float)
        if len(affine) < len(original):  # what a transform left of the affine when it took the third axis away
            kept = np.ix_([0, 1, 3], [0, 1, 3])
            affine, plane = original.copy(), affine
            affine[kept] = plane
        spatial = self.data_obj.shape[: len(shape)]
        if spatial == shape and corner_shift(shape, to_affine_nd(3, original), to_affine_nd(3, affine)) <= SAME_GRID:
            self.affine = original
