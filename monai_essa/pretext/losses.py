# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Patches of images and volumes, and the reconstruction loss over the masked ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

__all__ = [
    "PatchReconstruction",
    "gather_patches",
    "gradient_difference",
    "normalise_patches",
    "patchify",
    "scatter_patches",
    "unpatchify",
]

_NORMS = {"l1": 1, "l2": 2}
_EPSILON = 1e-6


@dataclass(frozen=True)
class PatchReconstruction:
    r"""Mean error over the patches given, which are the masked ones: visible patches never enter.

    With x a true patch, y its prediction (V values each) and w the weight of the patch:

    .. math:: L = \frac{\sum_m w_m (e(y_m, x_m) + \lambda g(y_m, x_m))}{\sum_m w_m}

    where e is the mean of :math:`|y - x|` (L1: SimMIM, Xie et al. 2022, arXiv 2111.09886, section 3.4) or of
    :math:`(y - x)^2` (L2: MAE, He et al. 2022, arXiv 2111.06377, section 3), and g is :func:`gradient_difference`.
    Sums are taken in fp32 at least, so autocast does not touch the loss.

    Args:
        error: ``"l1"`` or ``"l2"``.
        normalised: compare with patches of zero mean and unit variance (:func:`normalise_patches`) in place of x.
        gradient_weight: lambda, the weight of the gradient difference, which sharpens edges; 0 leaves it out.

    Raises:
        ValueError: if ``error`` has another value or ``gradient_weight`` is negative or not finite.

    Example:
        >>> import torch
        >>> loss = PatchReconstruction("l2", normalised=True)
        >>> loss(torch.zeros(2, 3, 512), torch.ones(2, 3, 512), patch_size=(8, 8, 8))
        tensor(0.)
    """

    error: str = "l1"
    normalised: bool = False
    gradient_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.error not in _NORMS:
            raise ValueError(f"expected error to be one of {sorted(_NORMS)}, got {self.error!r}")
        if not 0 <= self.gradient_weight < math.inf:
            raise ValueError(f"expected a finite gradient_weight of 0 or more, got {self.gradient_weight}")

    def __call__(
        self, prediction: Tensor, target: Tensor, patch_size: Sequence[int], weights: Tensor | None = None
    ) -> Tensor:
        """Compute the loss.

        Args:
            prediction: predicted patches (B, M, V), V = p1 * p2 * ... * C in the order of ``patchify``.
            target: true patches (B, M, V), as they are in the image.
            patch_size: voxels of a patch along each axis.
            weights: (B, M), zero or more each, for example the share of foreground; None weighs all alike. All zero
                gives a loss of zero.

        Returns:
            A scalar.
        """
        prediction, target = _at_least_fp32(prediction), _at_least_fp32(target)
        # The norm keeps the residual alone for the backward pass; torch's losses keep both sides and make copies.
        residual = normalise_patches(target).sub_(prediction) if self.normalised else target - prediction
        order = _NORMS[self.error]
        errors = torch.linalg.vector_norm(residual, order, dim=-1) ** order / residual.shape[-1]  # (B, M)
        if self.gradient_weight:
            errors = errors + self.gradient_weight * _mean_difference(residual, patch_size)
        if weights is None:
            return errors.mean()
        total = self.total_weight(target, weights).clamp_min(torch.finfo(errors.dtype).tiny)
        return (errors * weights.to(errors)).sum() / total

    def total_weight(self, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the denominator of the loss, which is what a batch counts beside others.

        The loss of two batches joined is :math:`(L_1 W_1 + L_2 W_2) / (W_1 + W_2)` with W their total weights.

        Args:
            target: true patches (B, M, V).
            weights: (B, M), as for the loss; None counts each patch as 1.

        Returns:
            A scalar without gradient, in the number format of the loss.
        """
        if weights is None:
            return _at_least_fp32(target.new_tensor(target.shape[:-1].numel()))
        return weights.detach().to(_at_least_fp32(target)).sum()

    def to_voxels(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Bring predicted patches to the intensities of the image, for figures.

        A prediction of normalised patches says nothing of a patch's mean and variance: both are taken from the true
        patch, as the figures of the MAE paper do.

        Args:
            prediction: predicted patches (B, M, V).
            target: true patches (B, M, V).

        Returns:
            Patches (B, M, V): the prediction itself, or prediction * std + mean where ``normalised``.
        """
        prediction, target = _at_least_fp32(prediction), _at_least_fp32(target)
        if not self.normalised:
            return prediction
        mean, std = _patch_statistics(target)
        return prediction * std + mean


def normalise_patches(patches: Tensor) -> Tensor:
    """Give each patch zero mean and unit variance over voxels and channels (MAE, section 3, "Reconstruction target").

    Args:
        patches: (..., V). The variance is the unbiased one and 1e-6 is added to it, as in the authors' code.

    Returns:
        Patches (..., V).
    """
    mean, std = _patch_statistics(patches)
    return (patches - mean).div_(std)


def gradient_difference(prediction: Tensor, target: Tensor, patch_size: Sequence[int]) -> Tensor:
    r"""Compare the finite differences of two patches: mean over the axes a of :math:`|\Delta_a y - \Delta_a x|`.

    It is the gradient difference loss of Mathieu et al. 2016 (arXiv 1511.05440) with signed differences,
    so that the direction of an edge counts. Differences stay inside a patch.

    Args:
        prediction: (B, M, V), V = p1 * p2 * ... * C.
        target: (B, M, V).
        patch_size: voxels of a patch along each axis; axes of one voxel have no difference and are left out.

    Returns:
        One value for each patch (B, M).

    Raises:
        ValueError: if the patch is one voxel along every axis.
    """
    return _mean_difference(prediction - target, patch_size)


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


def _mean_difference(residual: Tensor, patch_size: Sequence[int]) -> Tensor:
    residual = residual.unflatten(-1, (*patch_size, -1))  # (B, M, p1, p2, ..., C)
    axes = [axis + 2 for axis, size in enumerate(patch_size) if size > 1]
    if not axes:
        raise ValueError(f"expected a patch of two voxels or more along some axis, got {tuple(patch_size)}")
    return torch.stack([residual.diff(dim=axis).abs().flatten(2).mean(-1) for axis in axes]).mean(0)


def _patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + _EPSILON).sqrt()


def _at_least_fp32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


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
