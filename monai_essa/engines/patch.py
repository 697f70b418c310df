# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The patch of a training: what the network accepts, and what it covers of the scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn as nn

from monai_essa.anatomy import encoder_view
from monai_essa.data.readers.volume import ras_size
from monai_essa.data.readers.volume_file import read_volume

__all__ = ["check_crop_size", "patch_introduction"]

_MOST_SCANS = 20  # each is read whole, so a part of a large datalist must do


def check_crop_size(network: nn.Module, img_size: Sequence[int]) -> None:
    """Refuse crops that the patches of a network do not divide, or that are a single patch.

    Args:
        network: a plain or adapted network.
        img_size: voxels of a crop along each axis; the name is the key of the bundles.

    Raises:
        ValueError: if a side is not a multiple of the network's stride, or all sides are one stride: then nothing is
            left to predict a patch from, and the deepest feature map of a SwinUNETR is too small to be normalised.

    Example:
        >>> from monai.networks.nets import ViT
        >>> vit = ViT(1, 48, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> check_crop_size(vit, [40, 48, 48])
        Traceback (most recent call last):
        ValueError: img_size [40, 48, 48]: ViT needs multiples of (16, 16, 16), not all of them 1; set [48, 48, 48]
    """
    stride = encoder_view(network).stride
    if len(img_size) != len(stride):
        raise ValueError(f"img_size {list(img_size)}: expected {len(stride)} sides, for a {len(stride)}-D network")
    steps = [max(1, math.ceil(size / step)) for size, step in zip(img_size, stride, strict=True)]
    fitting = [count * step for count, step in zip(steps, stride, strict=True)]
    if fitting != list(img_size) or math.prod(steps) == 1:
        near = [2 * step for step in stride] if math.prod(steps) == 1 else fitting
        raise ValueError(
            f"img_size {list(img_size)}: {type(network).__name__} needs multiples of {stride}, not all of them 1; "
            f"set {near}"
        )


def patch_introduction(img_size: Sequence[int], spacing: Sequence[float], items: Sequence[Mapping[str, Any]]) -> str:
    """Return the first line of a log: the size of a patch in mm and the share of the median scan that it covers.

    Args:
        img_size: voxels of a patch along the axes R, A, S.
        spacing: mm of a voxel.
        items: of a datalist, with an ``image`` each.

    Returns:
        One line.
    """
    patch = np.multiply(img_size, spacing)
    chosen = items[:: -(-len(items) // _MOST_SCANS)]
    scan = np.median([_extent(item["image"]) for item in chosen], axis=0)[: len(patch)]
    share = float(np.prod(np.minimum(patch, scan) / scan))
    count = f"{len(chosen)} scan{'' if len(chosen) == 1 else 's'}"
    return f"patch: {_mm(patch)}, holds {share:.0%} of the median scan ({_mm(scan)}; {count} read)"


def _extent(image: str | Sequence[str]) -> np.ndarray:
    """Return the size in mm along R, A, S; an oblique scan counts along its nearest axes."""
    array, affine = read_volume(image)
    return ras_size(affine, array.shape[1:])


def _mm(extent: np.ndarray) -> str:
    return " x ".join(f"{size:.0f}" for size in extent) + " mm"
