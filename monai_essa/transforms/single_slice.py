# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Single slices of volumes as 2-D images: a DICOM X-ray and a slice of a CT have a third axis, of one voxel."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["DropSliceAxisd"]


class DropSliceAxisd(MapTransform):
    """Drop the last axis of images that have one axis too many, if it holds one voxel.

    DICOM and NIfTI keep a 2-D image as a volume of one slice, (channel, x, y, 1), where PNG gives (channel, x, y). An
    image with the right number of axes stays as it is, and so does a volume of several slices, which
    :class:`~monai_essa.transforms.CheckVolumed` then refuses.

    Args:
        keys: of the images, each (C, spatial...).
        spatial_dims: axes that an image should have after the channels.
        allow_missing_keys: pass over keys that an item lacks.

    Example:
        >>> import torch
        >>> DropSliceAxisd(keys="image", spatial_dims=2)({"image": torch.zeros(1, 8, 6, 1)})["image"].shape
        torch.Size([1, 8, 6])
    """

    def __init__(self, keys: KeysCollection, spatial_dims: int = 2, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its single slices as 2-D images.

        Args:
            data: an item with the keys.

        Returns:
            A shallow copy of the item.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            if item[key].ndim == self.spatial_dims + 2:
                item[key] = item[key].squeeze(-1)
        return item
