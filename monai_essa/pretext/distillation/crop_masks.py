# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Masks of the global crops: half of the crops, shares from 10 to 50 %, in blocks, the same count in each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_essa.distributed.shares import drawn_rows, own_share

__all__ = ["CropMasks", "crop_masks"]

_MASKED_CROPS = 0.5
_SHARES = (0.1, 0.5)
_BLOCKS = 4  # centres of a crop around which cells are masked
_ASPECT = math.log(1 / 0.3)


@dataclass(frozen=True, eq=False)
class CropMasks:
    """Which cells of which crops are masked.

    Attributes:
        mask: boolean (B, grid...), True where masked.
        cells: numbers (M) of the masked cells among the B * N cells of all crops, in row-major order.
        weights: (M), one over the number of masked cells of the crop.
    """

    mask: Tensor
    cells: Tensor
    weights: Tensor


def crop_masks(
    crops: int, grid: Sequence[int], generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> CropMasks:
    """Mask half of the crops, drawn at random, as DINOv2 does (Oquab et al. 2023, arXiv 2304.07193, appendix B).

    The shares of the masked crops are spread evenly from 10 to 50 %, so that M does not change from step to step and
    nothing has to wait for a device. Around four random centres of a crop, the nearest cells are masked, by distances
    that are stretched along the axes by random aspect ratios: blocks of any number of dimensions, which may overlap.

    Args:
        crops: B, two or more.
        grid: cells along each axis, two or more in all.
        generator: source of randomness; None uses the global one of the CPU.
        device: of the result; None leaves it on the device of the generator.

    Returns:
        The masks.

    Raises:
        ValueError: if there is a single crop or a single cell.

    Example:
        >>> masks = crop_masks(4, (4, 4, 4), torch.Generator().manual_seed(0))
        >>> masks.mask.flatten(1).sum(1).sort().values, len(masks.cells)
        (tensor([ 0,  0, 13, 26]), 39)
    """
    cells = math.prod(grid)
    if crops < 2 or cells < 2:
        raise ValueError(
            f"expected two crops or more of two cells or more to mask, got {crops} of {tuple(grid)}; "
            "use larger global crops, or set the weight of iBOT to 0"
        )
    source = torch.device("cpu") if generator is None else generator.device
    places = drawn_rows(crops, lambda rows: torch.arange(rows, device=source))  # of these crops in the whole batch
    whole = crops if (share := own_share()) is None else crops // max(len(share.own), 1) * share.rows
    counts = _counts(whole, cells)
    chosen = torch.rand(whole, generator=generator, device=source).argsort()[: len(counts)]
    order = _distances(len(counts), grid, generator, source).argsort(dim=1, stable=True)  # (masked crops, N)

    masked = list(range(len(counts)))
    if share is not None:  # those that this process has
        own = places.new_full((whole,), -1).index_copy(0, places, torch.arange(crops, device=source))
        chosen = own[chosen]
        masked = chosen.ge(0).nonzero().flatten().tolist()
    numbers = [chosen[row] * cells + order[row, : counts[row]] for row in masked]
    weights = [torch.full((counts[row],), 1 / counts[row], device=source) for row in masked]
    flat = torch.cat([chosen[:0], *numbers])
    mask = torch.zeros(crops * cells, dtype=torch.bool, device=source).index_fill(0, flat, True)
    target = device or source
    return CropMasks(
        mask.view(crops, *grid).to(target), flat.to(target), torch.cat([places[:0].float(), *weights]).to(target)
    )


def _counts(crops: int, cells: int) -> list[int]:
    """Return the number of masked cells of each masked crop: the middles of equal parts of the range of shares."""
    masked = max(1, int(crops * _MASKED_CROPS))
    least, most = _SHARES
    shares = [least + (most - least) * (number + 0.5) / masked for number in range(masked)]
    return [min(max(round(share * cells), 1), cells - 1) for share in shares]


def _distances(rows: int, grid: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return the distance of each cell (rows, N) from the nearest of the centres of its crop."""
    dims = len(grid)
    size = torch.tensor(grid, dtype=torch.float32, device=device)
    centres = torch.rand(rows, _BLOCKS, 1, dims, generator=generator, device=device) * size
    ratios = (torch.rand(rows, _BLOCKS, 1, dims, generator=generator, device=device) - 0.5) * _ASPECT
    axes = [torch.arange(cells, device=device) + 0.5 for cells in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(1, 1, -1, dims)
    return ((places - centres).abs() * ratios.exp()).amax(dim=-1).amin(dim=1)
