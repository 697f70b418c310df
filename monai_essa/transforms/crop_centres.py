# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Voxels around which labelled crops are drawn, found once for each scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.transforms.utils import map_binary_to_indices

__all__ = ["MarkCropCentresd"]


class MarkCropCentresd(MapTransform):
    """Add the foreground's and the background's voxels to an item, for MONAI's ``RandCropByPosNegLabeld``.

    Without them that transform scans the whole label for each crop. MONAI's ``FgBgToIndicesd`` lists every voxel, eight
    bytes each and so more than the image; here a large volume lists ``most`` of each kind, drawn once by a fixed seed.
    A volume with fewer lists them all, and its crops are those that ``RandCropByPosNegLabeld`` takes by itself.

    Args:
        keys: the label (C, spatial...); foreground is what is above 0 in any channel.
        fg_indices_key: of the foreground's voxels, the name that ``RandCropByPosNegLabeld`` takes.
        bg_indices_key: of the background's.
        most: how many of each kind are listed at most.
        allow_missing_keys: pass over a key that an item lacks.

    Example:
        >>> label = torch.zeros(1, 4, 4, 4)
        >>> label[..., 3] = 1
        >>> marked = MarkCropCentresd(keys="label")({"label": label})
        >>> len(marked["fg_indices"]), len(marked["bg_indices"])
        (16, 48)
    """

    def __init__(
        self,
        keys: KeysCollection,
        fg_indices_key: str = "fg_indices",
        bg_indices_key: str = "bg_indices",
        most: int = 100_000,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.fg_indices_key = fg_indices_key
        self.bg_indices_key = bg_indices_key
        self.most = most

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the voxels to an item.

        Args:
            data: an item with the label.

        Returns:
            A copy of the item with two tensors of positions in the flattened volume, in ascending order.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            foreground, background = map_binary_to_indices(torch.as_tensor(item[key]).as_subclass(torch.Tensor))
            item[self.fg_indices_key] = self._some(torch.as_tensor(foreground))
            item[self.bg_indices_key] = self._some(torch.as_tensor(background))
        return item

    def _some(self, indices: torch.Tensor) -> torch.Tensor:
        if len(indices) <= self.most:
            return indices
        # Drawn rather than every n-th: a step that divides the row length would keep single columns of the volume.
        drawn = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))[: self.most]
        return indices[drawn].sort().values
