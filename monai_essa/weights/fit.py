# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Fit one tensor of a file to the shape that its place in the network has."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from monai_essa.networks import interpolate_positions
from monai_essa.weights.grids import POSITIONS, Grids
from monai_essa.weights.patch_embedding import fit_first_convolution

__all__ = ["Fit", "fit"]

# Every convolution that takes the image itself; a UNETR's and a SwinUNETR's decoder has two, a UNet's encoder too.
_FIRST_CONVOLUTION = re.compile(
    r"(patch_embedding\.patch_embeddings|patch_embed\.proj|encoder1\.layer\.conv[13]\.conv"
    r"|convInit\.conv|conv_init|model\.0\.(conv\.unit0\.)?conv|model\.0\.residual)\.weight"
)
_POSITIONS = (POSITIONS, "decoder_pos_embedding")


@dataclass(frozen=True)
class Fit:
    """What became of a tensor: ``kind`` is ``"matched"``, ``"inflated"``, ``"interpolated"`` or ``"skipped"``."""

    kind: str
    tensor: torch.Tensor
    reason: str = ""


def fit(name: str, tensor: torch.Tensor, shape: Sequence[int], grids: Grids | None) -> Fit:
    """Fit a tensor to the shape that the network needs, where a rule for it exists.

    Args:
        name: canonical.
        tensor: of the file.
        shape: of the tensor in the network.
        grids: of the position embeddings, or None for a network that has none.

    Returns:
        The fitted tensor, or the tensor as it is with ``kind="skipped"`` and the reason.

    Example:
        >>> fit("norm.weight", torch.ones(24), (48,), None).reason
        'shape (24,) in the file, (48,) in the network'
    """
    if grids is not None and name in _POSITIONS:
        return _fit_positions(tensor, shape, grids)
    if tensor.shape == torch.Size(shape):
        return Fit("matched", tensor)
    fitted = fit_first_convolution(tensor, shape) if _FIRST_CONVOLUTION.fullmatch(name) else None
    return _skipped(tensor, shape) if fitted is None else Fit("inflated", *fitted)


def _fit_positions(table: torch.Tensor, shape: Sequence[int], grids: Grids) -> Fit:
    if table.ndim != 3 or (*table.shape[:1], *table.shape[2:]) != (*shape[:1], *shape[2:]):
        return _skipped(table, shape)
    table = table[:, grids.prefix_tokens :]
    counts = table.shape[1], shape[1]
    _check_counts(grids, counts)
    same_count = counts[0] == counts[1] and grids.source_dims == grids.target_dims
    source = grids.source or _only_reading(grids, counts, same_count)
    if source is None:
        return Fit("skipped", table, _which_grid(grids, counts[0]))
    target = grids.target or (source if same_count else None)
    if target is None:
        return Fit(
            "skipped", table, f"nobody knows for which grid the network's {counts[1]} positions are; give target_grid"
        )
    if len(source) > len(target):
        return _skipped(table, shape)
    if source == target:
        return Fit("matched", table)
    flat = (1,) * (len(target) - len(source))  # a 2-D grid is one layer of a volume
    fitted = interpolate_positions(table.float(), (*source, *flat), target)
    return Fit("interpolated", fitted, f"grid {source}{'' if grids.source else ' (assumed)'} -> {target}")


def _check_counts(grids: Grids, counts: tuple[int, int]) -> None:
    for side, grid, count in zip(("source", "target"), (grids.source, grids.target), counts, strict=True):
        if grid and math.prod(grid) != count:
            raise ValueError(
                f"{side}_grid {grid} has {math.prod(grid)} patches, expected {count}; give img_size / patch_size"
            )


def _only_reading(grids: Grids, counts: tuple[int, int], same_count: bool) -> tuple[int, ...] | None:
    """Return equal sides where they are the one plausible grid of a file, and None where the network's is another."""
    sides = _equal_sides(counts[0], grids.source_dims)
    return sides if not same_count or grids.target in (None, sides) else None


def _which_grid(grids: Grids, count: int) -> str:
    readings = [grid for grid in (_equal_sides(count, grids.source_dims), grids.target) if grid]
    likely = f", such as {' or '.join(map(str, readings))}" if readings else ""
    return (
        f"the file does not say for which grid its {count} positions are{likely}; give source_grid, in a bundle "
        "pretrained_img_size"
    )


def _equal_sides(tokens: int, spatial_dims: int) -> tuple[int, ...] | None:
    side = round(tokens ** (1 / spatial_dims))
    return (side,) * spatial_dims if side**spatial_dims == tokens else None


def _skipped(tensor: torch.Tensor, shape: Sequence[int]) -> Fit:
    return Fit("skipped", tensor, f"shape {tuple(tensor.shape)} in the file, {tuple(shape)} in the network")
