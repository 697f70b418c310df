# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What MAE and SimMIM share: the objective around a prediction of masked patches, its loss and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from monai.data import MetaTensor
from torch import Tensor

from monai_essa.pretext.losses import PatchReconstruction, gather_patches, scatter_patches
from monai_essa.pretext.masking import check_ratio

__all__ = ["MaskedPrediction", "MaskedReconstruction", "plain_tensor", "reconstruction_images", "reconstruction_parts"]


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


class MaskedReconstruction(nn.Module):
    """Objective that masks patches, predicts them and compares: a subclass builds its head and says how to predict.

    Args:
        encoder: the network whose encoder sees the masked images; kept as the attribute ``encoder``, not copied.
        mask_ratio: share of the image to mask, between 0 and 1.
        loss: comparison of the masked patches.

    Raises:
        ValueError: if the mask ratio is outside (0, 1).
    """

    def __init__(self, encoder: nn.Module, mask_ratio: float, loss: PatchReconstruction) -> None:
        super().__init__()
        check_ratio(mask_ratio)
        self.mask_ratio = mask_ratio
        self.loss = loss
        self.encoder = encoder

    def forward(
        self, images: Tensor, foreground: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Mask the images, predict what is masked and compare.

        Args:
            images: (B, C, spatial...), a multiple of the patch size, and for SimMIM of the mask unit and of the
                encoder's stride. Position embeddings are interpolated, for a ViT from the grid that ``keep_grid`` set.
            foreground: weight of each voxel (B, 1, spatial...), for example 1 in the body and 0 in air; None weights
                all voxels alike.
            generator: source of the mask; the same seed gives the same mask. None uses the global one of the CPU.

        Returns:
            ``loss``, a scalar, and ``weight``, the sum of the weights that it was divided by (without a foreground the
            number of masked patches).

        Raises:
            ValueError: if the shapes of the images or the foreground do not fit.
        """
        images = plain_tensor(images)
        return reconstruction_parts(self.predict(images, generator), images, foreground, self.loss)

    @property
    def settings(self) -> list[Any]:
        """What makes it this objective in the record of a run: the mask ratio and the loss."""
        return [self.mask_ratio, self.loss]

    def predict(self, images: Tensor, generator: torch.Generator | None = None) -> MaskedPrediction:
        """Predict the masked patches of images (B, C, spatial...) as the loss sees them."""
        raise NotImplementedError

    def head_parameters(self) -> list[nn.Parameter]:
        """List what is trained beside the encoder: mask token, decoder and output layer."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("encoder.")]

    @torch.no_grad()
    def reconstruct(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Predict images for figures; call ``eval()`` first if the network has dropout.

        A prediction of normalised patches is brought back by prediction * std + mean of the **true** patch, as in the
        figures of the MAE paper: its contrast and brightness are given, its structure is predicted.

        Args:
            images: (B, C, spatial...).
            generator: source of the mask.

        Returns:
            ``original``, ``masked``, ``prediction`` and ``mask``, each (B, C, spatial...).
        """
        images = plain_tensor(images)
        return reconstruction_images(self.predict(images, generator), images, self.loss)


def reconstruction_parts(
    predicted: MaskedPrediction, images: Tensor, foreground: Tensor | None, loss: PatchReconstruction
) -> dict[str, Tensor]:
    """Compute the loss of the masked patches.

    Args:
        predicted: the masked patches.
        images: true images (B, C, spatial...).
        foreground: weight of each voxel (B, 1, spatial...), 0 or more, for example 1 in the body and 0 in air; a patch
            weighs the mean of its voxels. None weights all patches alike.
        loss: the comparison.

    Returns:
        ``loss``, a scalar, and ``weight``, the sum of the weights of its patches: how much this batch counts among
        those whose gradients are accumulated.

    Raises:
        ValueError: if the foreground is not (B, 1, spatial...) of the images.
    """
    target = gather_patches(images, predicted.patch_size, predicted.indices)
    weights = None if foreground is None else _patch_weights(predicted, images, foreground)
    return {"loss": loss(predicted.patches, target, weights), "weight": loss.total_weight(target, weights)}


def reconstruction_images(predicted: MaskedPrediction, images: Tensor, loss: PatchReconstruction) -> dict[str, Tensor]:
    """Put predicted patches into images, for figures.

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


def plain_tensor(images: Tensor) -> Tensor:
    """Drop the metadata that MONAI's transforms attach: it slows down every operation and is not needed here."""
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
