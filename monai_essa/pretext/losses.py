# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Patches of images and volumes, and the reconstruction loss of masked patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

__all__ = ["PatchReconstruction", "gather_patches", "normalise_patches", "patchify", "scatter_patches", "unpatchify"]

_NORMS = {"l1": 1, "l2": 2}
_EPSILON = 1e-6


@dataclass(frozen=True)
class PatchReconstruction:
    r"""Mean error of predicted patches, which are the masked ones: visible patches are never passed in.

    With x a true patch, y its prediction (V values each) and w the weight of the patch:

    .. math:: L = \frac{\sum_m w_m \, e(y_m, x_m)}{\sum_m w_m}

    where e is the mean of :math:`|y - x|` (L1: SimMIM, Xie et al. 2022, arXiv 2111.09886, section 3.4) or of
    :math:`(y - x)^2` (L2: MAE, He et al. 2022, arXiv 2111.06377, section 3). Sums are computed in fp32 at least, so
    autocast does not affect the loss.

    Args:
        error: ``"l1"`` or ``"l2"``.
        normalised: compare with patches of zero mean and unit variance (:func:`normalise_patches`) in place of x.

    Raises:
        ValueError: if ``error`` has another value.

    Example:
        >>> import torch
        >>> loss = PatchReconstruction("l2", normalised=True)
        >>> loss(torch.zeros(2, 3, 512), torch.ones(2, 3, 512))
        tensor(0.)
    """

    error: str = "l1"
    normalised: bool = False

    def __post_init__(self) -> None:
        if self.error not in _NORMS:
            raise ValueError(f"expected error to be one of {sorted(_NORMS)}, got {self.error!r}")

    def __call__(self, prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            prediction: predicted patches (B, M, V), V = p1 * p2 * ... * C in the order of ``patchify``.
            target: true patches (B, M, V), as in the image.
            weights: (B, M), each zero or more, for example the share of foreground; None weights all alike. The loss is
                zero if all of them are.

        Returns:
            A scalar.
        """
        prediction, target = _at_least_fp32(prediction), _at_least_fp32(target)
        # The norm keeps only the residual for the backward pass; torch's losses keep both sides and make copies.
        residual = normalise_patches(target).sub_(prediction) if self.normalised else target - prediction
        order = _NORMS[self.error]
        errors = torch.linalg.vector_norm(residual, order, dim=-1) ** order / residual.shape[-1]  # (B, M)
        if weights is None:
            return errors.mean()
        total = self.total_weight(target, weights).clamp_min(torch.finfo(errors.dtype).tiny)
        return (errors * weights.to(errors)).sum() / total

    def total_weight(self, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the denominator of the loss, which is the weight of a batch among others.

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
        """Convert predicted patches to the intensities of the image, for figures.

        A prediction of normalised patches does not contain a patch's mean and variance: both are taken from the true
        patch, as in the figures of the MAE paper.

        Args:
            prediction: predicted patches (B, M, V).
            target: true patches (B, M, V).

        Returns:
            Patches (B, M, V): the prediction itself, or prediction * std + mean if ``normalised``.
        """
        prediction, target = _at_least_fp32(prediction), _at_least_fp32(target)
        if not self.normalised:
            return prediction
        mean, std = _patch_statistics(target)
        return prediction * std + mean


def normalise_patches(patches: Tensor) -> Tensor:
    """Normalise patches to zero mean and unit variance over voxels and channels (MAE, section 3).

    Args:
        patches: (..., V). The variance is the unbiased one and 1e-6 is added to it, as in the authors' code.

    Returns:
        Patches (..., V).
    """
    mean, std = _patch_statistics(patches)
    return (patches - mean).div_(std)


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
    """Cut out chosen patches: the same as indexing :func:`patchify`, without copying all patches.

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
    """Return a copy of images with chosen patches replaced: the counterpart of :func:`gather_patches`.

    Args:
        images: (B, C, spatial...); not changed.
        patches: (B, M, V), the new patches; cast to the type of the images.
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
    """Return the indices of patches along the leading axes of :func:`_patch_grid`, each (B, 1) or (B, M)."""
    grid = tuple(size // patch for size, patch in zip(images.shape[2:], patch_size, strict=True))
    batch = torch.arange(len(images), device=indices.device)[:, None]
    return batch, *torch.unravel_index(indices, grid)
