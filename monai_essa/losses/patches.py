# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Images as rows of patches and back, in any number of dimensions.

The order is fixed here for the whole library: patches in row-major order of the grid, and in a patch the voxels before
the channels, ``(p1 p2 p3 c)``, which is the order of MONAI's ``perceptron`` patch embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

__all__ = ["gather_patches", "patchify", "scatter_patches", "unpatchify"]


def patchify(images: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Cut images into patches.

    Args:
        images: (B, C, spatial...), each spatial axis a multiple of the patch size.
        patch_size: voxels of a patch along each axis.

    Returns:
        Patches (B, N, V): N patches in row-major order, V = p1 * p2 * ... * C values.

    Raises:
        ValueError: if the patch size does not divide the images.

    Example:
        >>> import torch
        >>> patchify(torch.zeros(2, 1, 32, 32, 16), (8, 8, 8)).shape
        torch.Size([2, 32, 512])
    """
    return _patch_grid(images, patch_size).flatten(1, len(patch_size)).flatten(2)


def unpatchify(patches: Tensor, patch_size: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Put patches back into images; the inverse of :func:`patchify`.

    Args:
        patches: (B, N, V) in the order of :func:`patchify`.
        patch_size: voxels of a patch along each axis.
        grid: patches along each axis; their product is N.

    Returns:
        Images (B, C, spatial...).

    Example:
        >>> import torch
        >>> unpatchify(torch.zeros(2, 32, 512), (8, 8, 8), (4, 4, 2)).shape
        torch.Size([2, 1, 32, 32, 16])
    """
    axes = range(len(grid))
    cells, voxels = " ".join(f"g{i}" for i in axes), " ".join(f"p{i}" for i in axes)
    sizes = {f"g{i}": grid[i] for i in axes} | {f"p{i}": patch_size[i] for i in axes}
    image = "b c " + " ".join(f"(g{i} p{i})" for i in axes)
    return rearrange(patches, f"b ({cells}) ({voxels} c) -> {image}", **sizes)


def gather_patches(images: Tensor, patch_size: Sequence[int], indices: Tensor) -> Tensor:
    """Cut out chosen patches only: the same as indexing :func:`patchify`, without a copy of all patches.

    Args:
        images: (B, C, spatial...), each spatial axis a multiple of the patch size.
        patch_size: voxels of a patch along each axis.
        indices: (B, M) patch numbers in row-major order of the grid.

    Returns:
        Patches (B, M, V).

    Raises:
        ValueError: if the patch size does not divide the images.

    Example:
        >>> import torch
        >>> gather_patches(torch.zeros(2, 1, 32, 32, 16), (8, 8, 8), torch.tensor([[0, 5], [1, 31]])).shape
        torch.Size([2, 2, 512])
    """
    return _patch_grid(images, patch_size)[_cells(images, patch_size, indices)].flatten(2)


def scatter_patches(images: Tensor, patches: Tensor, patch_size: Sequence[int], indices: Tensor) -> Tensor:
    """Copy images with chosen patches replaced: the counterpart of :func:`gather_patches`.

    Args:
        images: (B, C, spatial...); left as they are.
        patches: (B, M, V), what to put in; cast to the type of the images.
        patch_size: voxels of a patch along each axis.
        indices: (B, M) patch numbers in row-major order of the grid.

    Returns:
        Images (B, C, spatial...).

    Example:
        >>> import torch
        >>> scatter_patches(torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 64), (8, 8), torch.tensor([[3]])).sum()
        tensor(64.)
    """
    result = images.clone(memory_format=torch.contiguous_format)
    view = _patch_grid(result, patch_size)
    cells = _cells(images, patch_size, indices)
    view[cells] = patches.to(images.dtype).unflatten(2, view.shape[1 + len(patch_size) :])
    return result


def _patch_grid(images: Tensor, patch_size: Sequence[int]) -> Tensor:
    """View (B, C, spatial...) as (B, g1, g2, ..., p1, p2, ..., C) without a copy."""
    dims = len(patch_size)
    shape = images.shape[2:]
    if len(shape) != dims or any(size % patch for size, patch in zip(shape, patch_size, strict=True)):
        raise ValueError(
            f"expected a spatial shape that is a multiple of the patch size {tuple(patch_size)}, got {tuple(shape)}; "
            f"pad or crop the images"
        )
    split = images
    for axis, patch in enumerate(patch_size):
        split = split.unflatten(2 + 2 * axis, (-1, patch))  # (B, C, g1, p1, g2, p2, ...)
    return split.permute(0, *range(2, 2 + 2 * dims, 2), *range(3, 3 + 2 * dims, 2), 1)


def _cells(images: Tensor, patch_size: Sequence[int], indices: Tensor) -> tuple[Tensor, ...]:
    """Index tensors of the leading axes of :func:`_patch_grid`, each (B, 1) or (B, M)."""
    grid = tuple(size // patch for size, patch in zip(images.shape[2:], patch_size, strict=True))
    batch = torch.arange(len(images), device=indices.device)[:, None]
    return batch, *torch.unravel_index(indices, grid)
