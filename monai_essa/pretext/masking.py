# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Draw random masks over grids of any number of dimensions, the same on every device.

A mask is drawn on the device of its generator (the CPU without one) and then moved, so one seed gives one mask on every
device. For validation, the caller seeds the generator equally each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_essa.distributed.shares import drawn_rows

__all__ = [
    "block_mask",
    "check_ratio",
    "expand_mask",
    "gather_cells",
    "masked_count",
    "random_mask",
    "split_cells",
    "units_of",
]


def check_ratio(ratio: float) -> None:
    """Raise a ValueError unless a mask ratio is a float between 0 and 1, both excluded."""
    if not isinstance(ratio, float) or not 0 < ratio < 1:  # refuses text from a command line
        raise ValueError(f"expected a mask ratio between 0 and 1, both left out, got {ratio}")


def masked_count(cells: int, ratio: float) -> int:
    r"""Count the cells to mask: :math:`\lceil ratio \cdot cells \rceil`, at least one, with at least one visible.

    The count is that of the official code of MAE, which keeps :math:`\lfloor (1 - ratio) \cdot cells \rfloor` cells,
    and of SimMIM, except that floating-point errors do not add a cell if the product is a whole number.

    Args:
        cells: cells of the grid.
        ratio: share to mask, between 0 and 1.

    Returns:
        A count from 1 to ``cells - 1``.

    Raises:
        ValueError: if the ratio is outside (0, 1) or the grid has a single cell.

    Example:
        >>> masked_count(216, 0.75), masked_count(27, 0.6)
        (162, 17)
    """
    check_ratio(ratio)
    if cells < 2:
        raise ValueError(f"expected two or more cells to mask among, got {cells}; use larger crops or smaller patches")
    return min(max(math.ceil(round(ratio * cells, 9)), 1), cells - 1)


def random_mask(
    batch: int,
    grid: Sequence[int],
    ratio: float,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Mask cells at random, equally many in every sample (MAE, He et al. 2022, arXiv 2111.06377, section 3).

    Args:
        batch: number of samples B; each draws its own mask.
        grid: cells along each axis.
        ratio: share to mask; see :func:`masked_count`.
        generator: source of randomness; None uses the global one of the CPU.
        device: of the result; None leaves the mask on the device of the generator.

    Returns:
        A boolean mask (B, grid...), True where masked.

    Raises:
        ValueError: under the conditions of :func:`masked_count`.

    Example:
        >>> import torch
        >>> random_mask(2, (4, 4, 4), 0.75, torch.Generator().manual_seed(0)).flatten(1).sum(1)
        tensor([48, 48])
    """
    cells = math.prod(grid)
    count = masked_count(cells, ratio)
    source = torch.device("cpu") if generator is None else generator.device
    scores = drawn_rows(batch, lambda rows: torch.rand(rows, cells, generator=generator, device=source))
    chosen = scores.argsort(dim=1, stable=True)[:, :count]
    mask = torch.zeros(batch, cells, dtype=torch.bool, device=source).scatter(1, chosen, True)
    return mask.unflatten(1, tuple(grid)).to(device or source)


def block_mask(
    batch: int,
    grid: Sequence[int],
    ratio: float,
    block: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Mask whole blocks of cells at random, equally many in every sample (SimMIM, arXiv 2111.09886, section 3.2).

    Large blocks turn the task from interpolation between neighbours into one of anatomy.

    Args:
        batch: number of samples B; each draws its own mask.
        grid: cells along each axis.
        ratio: share of the blocks to mask; see :func:`masked_count`.
        block: cells of a block along each axis.
        generator: source of randomness; None uses the global one of the CPU.
        device: of the result; None leaves the mask on the device of the generator.

    Returns:
        A boolean mask (B, grid...), True where masked.

    Raises:
        ValueError: if the block does not divide the grid, or under the conditions of :func:`masked_count`.

    Example:
        >>> import torch
        >>> block_mask(1, (4, 4), 0.5, (2, 2), torch.Generator().manual_seed(0))[0].int()
        tensor([[0, 0, 0, 0],
                [0, 0, 0, 0],
                [1, 1, 1, 1],
                [1, 1, 1, 1]], dtype=torch.int32)
    """
    if len(block) != len(grid) or any(size % step for size, step in zip(grid, block, strict=True)):
        raise ValueError(f"expected blocks that divide the grid {tuple(grid)}, got {tuple(block)}; crop to a multiple")
    blocks = tuple(size // step for size, step in zip(grid, block, strict=True))
    return expand_mask(random_mask(batch, blocks, ratio, generator, device), block)


def expand_mask(mask: Tensor, factors: Sequence[int]) -> Tensor:
    """Repeat each cell of a mask (B, grid...) ``factors`` times along each axis, for example up to voxels."""
    for axis, factor in enumerate(factors, start=1):
        mask = mask.repeat_interleave(factor, dim=axis)
    return mask


def split_cells(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Number the visible and the masked cells of each sample, in row-major order.

    Args:
        mask: boolean (B, grid...), True in ``count`` cells of every sample.
        count: number of masked cells M, passed in so that nothing has to wait for a device.

    Returns:
        Indices of the visible cells (B, N - M) and of the masked cells (B, M).

    Example:
        >>> import torch
        >>> split_cells(torch.tensor([[True, False, False]]), count=1)
        (tensor([[1, 2]]), tensor([[0]]))
    """
    order = mask.flatten(1).to(torch.uint8).argsort(dim=1, stable=True)
    visible = order.shape[1] - count
    return order[:, :visible], order[:, visible:]


def gather_cells(tokens: Tensor, indices: Tensor) -> Tensor:
    """Return the tokens of chosen cells: (B, N, D) and indices (B, M) to (B, M, D)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


def units_of(unit: Sequence[int], patch_size: Sequence[int]) -> tuple[int, ...]:
    """Count the patches of a mask unit along each axis; ValueError unless the patch size divides it."""
    if len(unit) != len(patch_size) or any(voxels % patch for voxels, patch in zip(unit, patch_size, strict=True)):
        raise ValueError(f"expected a mask_unit that is a multiple of the patch size {tuple(patch_size)}, got {unit}")
    return tuple(voxels // patch for voxels, patch in zip(unit, patch_size, strict=True))
