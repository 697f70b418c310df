# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""From predicted patches to the loss and to figures: what MAE and SimMIM share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from monai.data import MetaTensor
from torch import Tensor

from monai_essa.pretext.losses import PatchReconstruction, gather_patches, scatter_patches

__all__ = ["MaskedPrediction", "head_parameters", "plain_tensor", "reconstruction_images", "reconstruction_parts"]


@dataclass(frozen=True, eq=False)
class MaskedPrediction:
    """What an objective predicts for the masked patches of a batch.

    Attributes:
        patches: predicted patches (B, M, V) in the order of ``patchify``; nothing is predicted for visible ones.
        indices: (B, M) numbers of the masked patches in row-major order of the grid.
        patch_size: voxels of a patch along each axis.
    """

    patches: Tensor
    indices: Tensor
    patch_size: tuple[int, ...]


def reconstruction_parts(
    predicted: MaskedPrediction, images: Tensor, foreground: Tensor | None, loss: PatchReconstruction
) -> dict[str, Tensor]:
    """Compare the masked patches with the images, and with nothing else.

    Args:
        predicted: the masked patches.
        images: true images (B, C, spatial...).
        foreground: weight of each voxel (B, 1, spatial...), 0 or more, for example 1 in the body and 0 in air; a patch
            weighs the mean of its voxels. None weighs all patches alike.
        loss: the comparison.

    Returns:
        ``loss``, a scalar, and ``weight``, the sum of the weights of the patches that the loss is the mean of: what
        this batch counts beside the others of an accumulation window.

    Raises:
        ValueError: if the foreground is not (B, 1, spatial...) of the images.
    """
    target = gather_patches(images, predicted.patch_size, predicted.indices)
    weights = None if foreground is None else _patch_weights(predicted, images, foreground)
    return {
        "loss": loss(predicted.patches, target, predicted.patch_size, weights),
        "weight": loss.total_weight(target, weights),
    }


def reconstruction_images(predicted: MaskedPrediction, images: Tensor, loss: PatchReconstruction) -> dict[str, Tensor]:
    """Lay out a prediction for figures.

    Args:
        predicted: the masked patches.
        images: true images (B, C, spatial...).
        loss: the comparison, which brings patches back to the intensities of the images.

    Returns:
        Images (B, C, spatial...): ``original``; ``masked``, zero where masked; ``prediction``, the visible voxels as
        they are and the masked ones predicted; ``mask``, one where masked.
    """
    size, indices = predicted.patch_size, predicted.indices
    target = gather_patches(images, size, indices)
    return {
        "original": images,
        "masked": scatter_patches(images, torch.zeros_like(target), size, indices),
        "prediction": scatter_patches(images, loss.to_voxels(predicted.patches, target), size, indices),
        "mask": scatter_patches(torch.zeros_like(images), torch.ones_like(target), size, indices),
    }


def head_parameters(objective: nn.Module) -> list[nn.Parameter]:
    """List the parameters that an objective trains beside its encoder: mask token, decoder, output layers."""
    return [parameter for name, parameter in objective.named_parameters() if not name.startswith("encoder.")]


def plain_tensor(images: Tensor) -> Tensor:
    """Drop the metadata that MONAI's transforms attach: it costs time in every operation and training needs none."""
    return images.as_tensor() if isinstance(images, MetaTensor) else images


def _patch_weights(predicted: MaskedPrediction, images: Tensor, foreground: Tensor) -> Tensor:
    expected: Sequence[int] = (len(images), 1, *images.shape[2:])
    if tuple(foreground.shape) != tuple(expected):
        raise ValueError(
            f"expected a foreground {tuple(expected)} for images {tuple(images.shape)}, got {tuple(foreground.shape)}; "
            f"give one weight for each voxel"
        )
    patches = gather_patches(plain_tensor(foreground), predicted.patch_size, predicted.indices)
    return patches.to(torch.float32).mean(-1)  # (B, M)
