# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Global and local views of one region of a scan, for self-distillation and contrast."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data.utils import set_rnd
from monai.transforms import MapTransform, Randomizable
from monai.utils import MAX_SEED
from torch import Tensor

from monai_essa.data.transforms.check_volume import file_of

__all__ = ["LOCAL", "MultiCropd"]

LOCAL = "local"
_REGION = 1.5  # sides of the region in sides of the global crop: any two global views overlap
_ZOOM = (0.8, 1.25)
_MODES = {2: "bilinear", 3: "trilinear"}


class MultiCropd(Randomizable, MapTransform):
    """Cut global and local views out of one region of an image (DINO, arXiv 2104.14294, section 3.1).

    The region has at most 1.5 times the side of a global crop and lies around a foreground voxel, so that two views
    share anatomy, which views from all over a scan may not. A view is zoomed by a factor from 0.8 to 1.25, the same
    along all axes: proportions in mm stay those of the scan's spacing. There is no other resampling. Left and right are
    flipped in half of the views, then each view has an augmentation of its own.

    Args:
        keys: of one image (C, spatial...), 2-D or 3-D; its global views (G, C, spatial...) take its place.
        global_size: voxels of a global crop along each axis.
        local_size: voxels of a local crop along each axis, no more than of a global one.
        views: G and L, the numbers of global and local views; the local ones (L, C, spatial...) become ``"local"``.
        centres_key: of the positions of foreground voxels in the flattened image, as ``MarkCropCentresd`` gives them;
            without them the region lies anywhere.
        intensity: augmentation of a view (C, spatial...), such as :func:`view_intensity`; None leaves it as it is.

    Raises:
        ValueError: if the sizes or the numbers of views do not fit each other; when called, if the image is smaller
            than a global crop.

    Example:
        >>> crop = MultiCropd("image", global_size=[16, 16], local_size=[8, 8], views=[2, 3])
        >>> views = crop({"image": torch.rand(1, 24, 20)})
        >>> views["image"].shape, views["local"].shape
        (torch.Size([2, 1, 16, 16]), torch.Size([3, 1, 8, 8]))
    """

    def __init__(
        self,
        keys: KeysCollection,
        global_size: Sequence[int],
        local_size: Sequence[int],
        views: Sequence[int] = (2, 4),
        centres_key: str = "fg_indices",
        intensity: Callable[[Tensor], Any] | None = None,
    ) -> None:
        MapTransform.__init__(self, keys)
        if len(self.keys) != 1 or len(views) != 2 or views[0] < 1 or views[1] < 0:
            raise ValueError(f"expected one key, one global view or more and the number of local ones, got {views}")
        pairs = list(zip(global_size, local_size, strict=False))
        if len(global_size) != len(local_size) or any(not 0 < local <= size for size, local in pairs):
            raise ValueError(
                f"expected local crops no larger than the global ones, got {list(local_size)} and {list(global_size)}"
            )
        self.global_size = tuple(global_size)
        self.local_size = tuple(local_size)
        self.views = tuple(views)
        self.centres_key = centres_key
        self.intensity = intensity

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> MultiCropd:
        """Set the random state of the crops and, by a seed drawn from it, that of the augmentation."""
        super().set_random_state(seed, state)
        set_rnd(self.intensity, seed=int(self.R.randint(MAX_SEED, dtype=np.int64)))
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut the views of an item.

        Args:
            data: an item with the image, and perhaps with positions of its foreground.

        Returns:
            A copy of the item with the views as plain tensors, and without the positions.

        Raises:
            ValueError: if the image has other axes or is smaller than a global crop.
        """
        item = dict(data)
        (key,) = self.keys
        centres = item.pop(self.centres_key, None)
        image = torch.as_tensor(item[key]).as_subclass(Tensor)
        self._check(image, file_of(item[key], str(key)))

        region = image[(slice(None), *self._region(image.shape[1:], centres))]
        item[key] = torch.stack([self._view(region, self.global_size) for _ in range(self.views[0])])
        if self.views[1]:
            item[LOCAL] = torch.stack([self._view(region, self.local_size) for _ in range(self.views[1])])
        return item

    def _check(self, image: Tensor, file: str) -> None:
        shape = tuple(image.shape[1:])
        if len(shape) != len(self.global_size) or any(
            size < crop for size, crop in zip(shape, self.global_size, strict=False)
        ):
            raise ValueError(
                f"{file}: expected an image of the size of a global crop {self.global_size} or more, got {shape}: "
                "take smaller crops, or pad the scans"
            )

    def _region(self, shape: Sequence[int], centres: Any) -> tuple[slice, ...]:
        sides = [min(size, int(_REGION * crop)) for size, crop in zip(shape, self.global_size, strict=True)]
        if centres is None or len(centres) == 0:
            starts = [int(self.R.randint(size - side + 1)) for size, side in zip(shape, sides, strict=True)]
        else:
            centre = np.unravel_index(int(centres[int(self.R.randint(len(centres)))]), tuple(shape))
            starts = [
                min(max(int(place) - side // 2, 0), size - side)
                for place, size, side in zip(centre, shape, sides, strict=True)
            ]
        return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))

    def _view(self, region: Tensor, size: tuple[int, ...]) -> Tensor:
        sides = region.shape[1:]
        least = max(_ZOOM[0], *(crop / side for crop, side in zip(size, sides, strict=True)))
        zoom = math.exp(self.R.uniform(math.log(least), math.log(_ZOOM[1])))
        extents = [min(round(crop / zoom), side) for crop, side in zip(size, sides, strict=True)]
        starts = [int(self.R.randint(side - extent + 1)) for side, extent in zip(sides, extents, strict=True)]
        places = (slice(start, start + extent) for start, extent in zip(starts, extents, strict=True))

        view = region[(slice(None), *places)].float()
        view = F.interpolate(view[None], size=size, mode=_MODES[len(size)], align_corners=False)[0]
        if self.R.uniform() < 0.5:
            view = view.flip(1)
        return view if self.intensity is None else torch.as_tensor(self.intensity(view)).as_subclass(Tensor)
