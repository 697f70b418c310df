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

_FIRST_CONVOLUTION = re.compile(
    r"(patch_embedding\.patch_embeddings|patch_embed\.proj|encoder1\.layer\.conv[13]\.conv)\.weight"
)
_POSITIONS = (POSITIONS, "decoder_pos_embedding")


@dataclass(frozen=True)
class Fit:
    """What became of a tensor: ``kind`` is ``"matched"``, ``"inflated"``, ``"interpolated"`` or ``"skipped"``."""

    kind: str
    tensor: torch.Tensor
    reason: str = ""


def fit(name: str, tensor: torch.Tensor, shape: Sequence[int], grids: Grids | None) -> Fit:
    """Give a tensor the shape that the network needs, where a rule for it exists.

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
    if (*table.shape[:1], *table.shape[2:]) != (*shape[:1], *shape[2:]):
        return _skipped(table, shape)
    table = table[:, grids.prefix_tokens :]
    for side, grid, count in (("source", grids.source, table.shape[1]), ("target", grids.target, shape[1])):
        if grid and math.prod(grid) != count:
            raise ValueError(
                f"{side}_grid {grid} has {math.prod(grid)} patches, expected {count}; give img_size / patch_size"
            )
    known = grids.source is not None and grids.target is not None
    if table.shape[1] == shape[1] and grids.source_dims == grids.target_dims and not known:
        return Fit("matched", table)
    source = grids.source or _equal_sides(table.shape[1], grids.source_dims)
    target = grids.target or _equal_sides(shape[1], grids.target_dims)
    if source is None or target is None:
        side, count = ("source", table.shape[1]) if source is None else ("target", shape[1])
        return Fit("skipped", table, f"{count} position embeddings form no grid of equal sides; give {side}_grid")
    if len(source) > len(target):
        return _skipped(table, shape)
    if source == target:
        return Fit("matched", table)
    said = [
        f"{grid}{'' if given else ' (assumed)'}" for grid, given in ((source, grids.source), (target, grids.target))
    ]
    flat = (1,) * (len(target) - len(source))  # a 2-D grid is one layer of a volume
    fitted = interpolate_positions(table.float(), (*source, *flat), target)
    return Fit("interpolated", fitted, f"grid {' -> '.join(said)}")


def _equal_sides(tokens: int, spatial_dims: int) -> tuple[int, ...] | None:
    side = round(tokens ** (1 / spatial_dims))
    return (side,) * spatial_dims if side**spatial_dims == tokens else None


def _skipped(tensor: torch.Tensor, shape: Sequence[int]) -> Fit:
    return Fit("skipped", tensor, f"shape {tuple(tensor.shape)} in the file, {tuple(shape)} in the network")
