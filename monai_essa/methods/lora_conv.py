# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A frozen convolution with a low-rank update, as the peft package builds it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_essa.methods.adoption import adopt, original_of

__all__ = ["ADDED", "LoRAConv"]

ADDED = ("kind", "scale", "dropout", "lora_A", "lora_B")
"""Attributes that an update adds to a layer, linear or convolution."""

_CONVOLVE: dict[int, Callable[..., torch.Tensor]] = {2: F.conv2d, 3: F.conv3d}


class LoRAConv(nn.Module):
    r"""A frozen convolution plus a narrow one of the same kernel and geometry, followed by a 1x1 one.

    It has all attributes and hooks of the layer whose place it takes, and none of its class: no other method finds it.

    .. math:: y = W * x + b + \frac{\alpha}{r} B * (A * x), \quad A \in R^{r \times in \times k^d},\
              B \in R^{out \times r \times 1^d}

    Args:
        conv: the pretrained ``nn.Conv2d`` or ``nn.Conv3d`` without groups; its tensors are shared, not copied.
        rank: r.
        alpha: the update is scaled by alpha / rank.
        dropout: on the input of A, in training only.

    Raises:
        ValueError: if the convolution has groups or pads with something else than zeros.

    Example:
        >>> layer = LoRAConv(nn.Conv3d(2, 8, 3, padding=1), rank=2, alpha=4)
        >>> layer(torch.ones(1, 2, 4, 4, 4)).shape, layer.lora_A.shape, layer.lora_B.shape
        (torch.Size([1, 8, 4, 4, 4]), torch.Size([2, 2, 3, 3, 3]), torch.Size([8, 2, 1, 1, 1]))
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    kernel_size: tuple[int, ...]

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, rank: int, alpha: float, dropout: float = 0.0) -> None:
        if conv.groups != 1 or conv.padding_mode != "zeros":
            raise ValueError(f"LoRA needs a convolution with groups=1 and padding_mode='zeros', got {conv}")
        adopt(self, conv)
        self.kind = type(conv)
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout).train(conv.training)
        self.lora_A = nn.Parameter(conv.weight.new_empty(rank, *conv.weight.shape[1:]))
        self.lora_B = nn.Parameter(conv.weight.new_zeros(len(conv.weight), rank, *(1 for _ in conv.kernel_size)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute W * x + b plus the scaled update; x (B, in, spatial...) -> (B, out, spatial...)."""
        convolve = _CONVOLVE[len(self.kernel_size)]
        geometry = (self.stride, self.padding, self.dilation)
        narrow = convolve(self.dropout(x), self.lora_A, None, *geometry)  # (B, r, spatial...)
        return convolve(x, self.weight, self.bias, *geometry) + self.scale * convolve(narrow, self.lora_B)

    def plain(self) -> nn.Module:
        """Return the pretrained layer, sharing its tensors and hooks."""
        return original_of(self, self.kind, ADDED)

    def merged(self) -> nn.Module:
        """Return a plain layer with weight W + (alpha / rank) B A."""
        update = self.lora_B.detach().flatten(1) @ self.lora_A.detach().flatten(1)  # (out, in k^d)
        layer = self.plain()
        layer.weight = nn.Parameter(self.weight.detach() + self.scale * update.view_as(self.weight))
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone())
        return layer

    def extra_repr(self) -> str:
        """Say the layer's size and the rank."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, rank={len(self.lora_A)}"
