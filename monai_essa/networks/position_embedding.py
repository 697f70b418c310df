# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Position embeddings of one token grid, resampled to another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

__all__ = ["interpolate_positions"]

_MODES = {2: "bicubic", 3: "trilinear"}


def interpolate_positions(positions: Tensor, source: Sequence[int], target: Sequence[int]) -> Tensor:
    """Resample position embeddings from the grid they were made for to the grid of another crop.

    Bicubic in 2-D, as is usual for vision transformers (Dosovitskiy et al. 2021, arXiv 2010.11929, section 3.2, and the
    code of its successors); trilinear in 3-D, where torch has no cubic form. The field of view is stretched: the first
    and last token keep their place at the border.

    Args:
        positions: embeddings (1, N, D), N the product of ``source``; tokens in row-major order.
        source: grid of the embeddings.
        target: grid wanted.

    Returns:
        Embeddings (1, N', D), N' the product of ``target``; the very tensor given where the grids agree.

    Raises:
        ValueError: if the number of embeddings is not that of the source grid.

    Example:
        >>> import torch
        >>> interpolate_positions(torch.zeros(1, 64, 48), (4, 4, 4), (2, 2, 6)).shape
        torch.Size([1, 24, 48])
    """
    if positions.shape[1] != math.prod(source):
        raise ValueError(
            f"expected {math.prod(source)} position embeddings for the grid {tuple(source)}, got {positions.shape[1]}; "
            f"give the grid that the network was built for"
        )
    if tuple(source) == tuple(target):
        return positions

    image = positions.transpose(1, 2).unflatten(2, tuple(source))  # (1, D, source...)
    image = F.interpolate(image, size=tuple(target), mode=_MODES[len(source)], align_corners=False)
    return image.flatten(2).transpose(1, 2)  # (1, N', D)
