# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Find the foreground of a scan, clip its intensities by percentiles, and mark where crops may lie."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.transforms.utils import map_binary_to_indices

from monai_essa.data.transforms.check_volume import file_of
from monai_essa.outside import switch

__all__ = ["ClipForegroundPercentilesd", "MarkCropCentresd", "MarkForegroundd", "foreground_threshold"]


def foreground_threshold(volume: torch.Tensor | np.ndarray) -> float:
    r"""Compute the intensity above which a voxel counts as foreground.

    .. math:: t = t_2 + 0.1 (t_{98} - t_2)

    with :math:`t_2, t_{98}` the 2nd and 98th percentile of all voxels: the threshold between head and background of
    S. M. Smith, "Fast robust automated brain extraction", Human Brain Mapping 17 (2002), section "Estimation of
    basic image and brain parameters". In a crop without air it keeps nine voxels in ten, where Otsu's threshold or the
    mean would call the darker half of the tissue background.

    Args:
        volume: any shape.

    Returns:
        The threshold in the volume's units; it moves and scales with the intensities.

    Example:
        >>> round(foreground_threshold(torch.arange(101.0)), 6)
        11.6
    """
    return float(np.percentile(np.asarray(volume), [2, 98]) @ [0.9, 0.1])


class ClipForegroundPercentilesd(MapTransform):
    """Clip each channel to percentiles of its foreground, for MR images before they are scaled to a range.

    Percentiles of all voxels would depend on how much air the field of view holds. What is darker than the foreground
    becomes one value, the least of the channel, which MONAI's ``ScaleIntensityd(channel_wise=True)`` then makes 0. A
    published ``inference.yaml`` can do the same without this class, for each channel ``c``:
    ``c.clamp(*np.percentile(c[c > np.percentile(c, [2, 98]).dot([0.9, 0.1])], [0.5, 99.5]))`` in MONAI's ``Lambdad``.

    Args:
        keys: of images (C, spatial...).
        lower: percentile of the foreground to clip to from below; default: nnU-Net's (Isensee et al., Nature Methods
            18, 2021).
        upper: likewise from above.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        ValueError: if not 0 <= lower < upper <= 100; when called, if a channel has no foreground.

    Example:
        >>> clip = ClipForegroundPercentilesd(keys="image")
        >>> image = torch.arange(1000.0).reshape(1, 10, 10, 10)
        >>> clipped = clip({"image": image})["image"]
        >>> bool(clipped.min() > 115), bool(clipped.max() < 996)
        (True, True)
    """

    def __init__(
        self, keys: KeysCollection, lower: float = 0.5, upper: float = 99.5, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= lower < upper <= 100:
            msg = f"expected 0 <= lower < upper <= 100, got lower={lower}, upper={upper}"
            raise ValueError(msg)
        self.percentiles = [lower, upper]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Clip the images of an item.

        Args:
            data: an item with the keys.

        Returns:
            A copy of the item with new images of the same type and shape.

        Raises:
            ValueError: if a channel has no foreground: it is constant, or nearly everywhere at its greatest value.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            file = file_of(item[key], key)
            item[key] = torch.stack([self._clip(channel, file) for channel in item[key]])
        return item

    def _clip(self, channel: torch.Tensor, file: str) -> torch.Tensor:
        voxels = np.asarray(channel)
        foreground = voxels[voxels > foreground_threshold(voxels)]
        if foreground.size == 0:
            raise ValueError(f"{file}: a channel has no foreground; leave out the file")
        return channel.clamp(*np.percentile(foreground, self.percentiles))


class MarkForegroundd(MapTransform):
    """Add a mask of the foreground, for losses and random crops that should not spend themselves on air.

    Put it before the crops and give its key to them, so that the mask is cut with the image; it also serves as
    ``label_key`` of MONAI's ``RandCropByPosNegLabeld``.

    Args:
        keys: of images (C, spatial...) on one grid; a voxel is foreground if any channel of any image is.
        foreground_key: of the mask.
        allow_missing_keys: pass over keys that an item lacks.

    Example:
        >>> image = torch.zeros(1, 4, 4, 4)
        >>> image[..., 2:] = 5.0
        >>> MarkForegroundd(keys="image")({"image": image})["foreground"].float().mean()
        tensor(0.5000)
    """

    def __init__(
        self, keys: KeysCollection, foreground_key: str = "foreground", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.foreground_key = foreground_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask to an item.

        Args:
            data: an item with the keys.

        Returns:
            A copy of the item with a boolean mask (1, spatial...) that has the images' metadata.
        """
        item = dict(data)
        masks = [channel > foreground_threshold(channel) for key in self.key_iterator(item) for channel in item[key]]
        item[self.foreground_key] = torch.stack(masks).any(dim=0, keepdim=True)
        return item


class MarkCropCentresd(MapTransform):
    """Add the positions of foreground and background voxels to an item, for MONAI's ``RandCropByPosNegLabeld``.

    Without them that transform scans the whole label for each crop. MONAI's ``FgBgToIndicesd`` lists every voxel, eight
    bytes each and so more than the image; here a large volume lists ``most`` of each kind, drawn once by a fixed seed.
    A volume with fewer lists them all, and its crops are those that ``RandCropByPosNegLabeld`` takes by itself.

    Args:
        keys: the label (C, spatial...); foreground is what is above 0 in any channel.
        fg_indices_key: of the foreground positions, the name that ``RandCropByPosNegLabeld`` takes.
        bg_indices_key: of the background positions.
        most: how many of each kind are listed at most.
        balanced: list as many positions of each class above 0 that the label has; those of a small class repeatedly.
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
        balanced: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.fg_indices_key = fg_indices_key
        self.bg_indices_key = bg_indices_key
        self.most = most
        self.balanced = switch("balanced_crops", balanced)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the positions to an item.

        Args:
            data: an item with the label.

        Returns:
            A copy of the item with two tensors of positions in the flattened volume, in ascending order.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            foreground, background = map_binary_to_indices(torch.as_tensor(item[key]).as_subclass(torch.Tensor))
            listed = self._balanced(item[key]) if self.balanced else torch.as_tensor(foreground)
            item[self.fg_indices_key] = self._some(listed)
            item[self.bg_indices_key] = self._some(torch.as_tensor(background))
        return item

    def _some(self, indices: torch.Tensor) -> torch.Tensor:
        if len(indices) <= self.most:
            return indices
        # Drawn rather than every n-th: a step that divides the row length would keep single columns of the volume.
        drawn = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))[: self.most]
        return indices[drawn].sort().values

    def _balanced(self, label: torch.Tensor) -> torch.Tensor:
        ids = torch.as_tensor(label).as_subclass(torch.Tensor).amax(0).flatten()
        classes = [(ids == number).nonzero().flatten() for number in ids.unique() if number > 0]
        count = min(max(map(len, classes), default=0), self.most // max(1, len(classes)))
        # A large class is drawn from as in _some, a small one comes again and again.
        generator = torch.Generator().manual_seed(0)
        drawn = [places[torch.randperm(len(places), generator=generator)[:count]] for places in classes]
        positions = [places[torch.arange(count) % len(places)] for places in drawn]
        return torch.cat(positions).sort().values if positions else ids.new_empty(0, dtype=torch.int64)
