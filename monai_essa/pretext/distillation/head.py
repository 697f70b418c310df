# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The projection head of self-distillation: an MLP, a bottleneck of unit length and prototypes of unit length."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DINOHead", "PrototypeHead"]

_STD = 0.02


@dataclass(frozen=True)
class DINOHead:
    """Size of the head that image tokens and masked patches share.

    The released ESSA configuration has 65,536 prototypes, made for millions of images. A site has thousands, and the
    logits of all masked patches are the largest tensors of a step, so the default is 4,096.

    Attributes:
        prototypes: K, 2 or more.
        hidden_size: width of the hidden layers.
        bottleneck: features that are compared with the prototypes.
        layers: number of linear layers before the prototypes.

    Raises:
        ValueError: if there are fewer than two prototypes, or a size is below 1.

    Example:
        >>> DINOHead(prototypes=1024).bottleneck
        256
    """

    prototypes: int = 4096
    hidden_size: int = 2048
    bottleneck: int = 256
    layers: int = 3

    def __post_init__(self) -> None:
        if self.prototypes < 2:
            raise ValueError(f"expected two prototypes or more, got {self.prototypes}; with one every image is alike")
        if min(self.hidden_size, self.bottleneck, self.layers) < 1:
            raise ValueError(f"expected sizes of 1 or more, got {self}")


class PrototypeHead(nn.Module):
    """Project tokens and compare them with prototypes (DINO, Caron et al. 2021, arXiv 2104.14294, appendix C).

    Layers of GELU, a bottleneck that is normalised to length 1, and prototypes of length 1: a weight-normed layer whose
    gain stays at 1. Linear layers start normal with a deviation of 0.02 and zero biases, as in the authors' code.

    Args:
        in_features: D of the tokens.
        size: of the head.
    """

    def __init__(self, in_features: int, size: DINOHead) -> None:
        super().__init__()
        widths = [in_features, *[size.hidden_size] * (size.layers - 1), size.bottleneck]
        layers = [nn.Linear(before, after) for before, after in pairwise(widths)]
        self.layers = nn.ModuleList(layers)
        self.prototypes = nn.Parameter(torch.empty(size.prototypes, size.bottleneck))
        nn.init.trunc_normal_(self.prototypes, std=_STD)
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits.

        Args:
            tokens: (..., D).

        Returns:
            Cosines (..., K) of tokens and prototypes.
        """
        for number, layer in enumerate(self.layers):
            tokens = layer(tokens if number == 0 else F.gelu(tokens))
        prototypes: Tensor = self.prototypes
        # Brought to fp32: the squares of a bottleneck in half precision lose what tells two scans apart.
        return F.linear(F.normalize(tokens.to(prototypes), dim=-1), F.normalize(prototypes, dim=-1))
