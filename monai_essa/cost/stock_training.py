# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The yardstick: masked image modelling as it is written by hand today, on MONAI's own networks and forward passes.

All tokens are predicted and the loss of the visible ones is multiplied by zero, as in the published code of MAE (He et
al. 2022) and SimMIM (Xie et al. 2022). Our own objectives do the same work for masked tokens alone.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.nets import MaskedAutoEncoderViT, ViT
from torch import Tensor

from monai_essa.pretext import masked_count, normalise_patches, patchify

__all__ = ["StockMAE", "StockSegmentation", "StockSimMIM", "foreach_adamw"]


def foreach_adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return torch's default AdamW, which makes temporaries as large as all gradients.

    Example:
        >>> foreach_adamw([nn.Parameter(torch.zeros(3))]).defaults["fused"] is None
        True
    """
    return torch.optim.AdamW(parameters)


class StockSimMIM(nn.Module):
    """SimMIM on MONAI's ViT: mask token, all blocks, one linear layer on every token, L1 of the masked ones.

    Args:
        encoder: a ViT.
        patch_size: voxels of its patches along each axis.
        mask_ratio: share of the patches that are masked.

    Example:
        >>> net = ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> StockSimMIM(net, (8, 8, 8))(torch.rand(2, 1, 32, 32, 32))["loss"].shape
        torch.Size([])
    """

    def __init__(self, encoder: ViT, patch_size: tuple[int, ...], mask_ratio: float = 0.6) -> None:
        super().__init__()
        self.encoder = encoder
        self.patch_size = patch_size
        self.mask_ratio = mask_ratio
        width = encoder.norm.normalized_shape[0]
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.head = nn.Linear(width, torch.Size(patch_size).numel())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the loss of images (B, 1, spatial...)."""
        embedding = self.encoder.patch_embedding
        tokens = embedding.patch_embeddings(images).flatten(2).transpose(1, 2)  # (B, N, D)
        mask = _mask(tokens, self.mask_ratio)  # (B, N)
        tokens = torch.where(mask[..., None], self.mask_token, tokens) + embedding.position_embeddings
        for block in self.encoder.blocks:
            tokens = block(tokens)
        prediction = self.head(self.encoder.norm(tokens))  # (B, N, V)
        errors = (prediction - patchify(images, self.patch_size)).abs().mean(-1)
        return {"loss": (errors * mask).sum() / mask.sum()}


class StockMAE(nn.Module):
    """MAE by MONAI's MaskedAutoEncoderViT: every patch is predicted, L2 on normalised patches, the masked ones count.

    Args:
        network: the masked autoencoder.
        patch_size: voxels of its patches along each axis.

    Example:
        >>> net = MaskedAutoEncoderViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> StockMAE(net, (8, 8, 8))(torch.rand(2, 1, 32, 32, 32))["loss"].shape
        torch.Size([])
    """

    def __init__(self, network: MaskedAutoEncoderViT, patch_size: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the loss of images (B, 1, spatial...)."""
        prediction, mask = self.network(images)  # (B, N, V) and (B, N)
        errors = (prediction - normalise_patches(patchify(images, self.patch_size))).square().mean(-1)
        return {"loss": (errors * mask).sum() / mask.sum()}


class StockSegmentation(nn.Module):
    """Voxel-wise cross-entropy of a network's logits.

    Args:
        network: maps images (B, 1, spatial...) to logits (B, classes, spatial...).

    Example:
        >>> objective = StockSegmentation(nn.Conv2d(1, 3, 1))
        >>> objective(torch.rand(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))["loss"].shape
        torch.Size([])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the loss of images with labels (B, spatial...), class numbers."""
        return {"loss": F.cross_entropy(self.network(images), labels)}


def _mask(tokens: Tensor, ratio: float) -> Tensor:
    ranks = torch.rand(tokens.shape[:2], device=tokens.device).argsort(1)
    return ranks < masked_count(tokens.shape[1], ratio)
