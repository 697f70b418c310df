# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A frozen convolution with a low-rank update, as the peft package builds it."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["LoRAConv"]

_ARGUMENTS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")


class LoRAConv(nn.Module):
    r"""A frozen convolution plus a narrow one of the same kernel and geometry, followed by a 1x1 one.

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

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        if conv.groups != 1 or conv.padding_mode != "zeros":
            raise ValueError(f"LoRA needs a convolution with groups=1 and padding_mode='zeros', got {conv}")
        self.weight = conv.weight
        self.bias = conv.bias
        self.kind = type(conv)
        self.arguments = {name: getattr(conv, name) for name in _ARGUMENTS}
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(conv.weight.new_empty(rank, *conv.weight.shape[1:]))
        self.lora_B = nn.Parameter(conv.weight.new_zeros(len(conv.weight), rank, *(1 for _ in conv.kernel_size)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute W * x + b plus the scaled update; x (B, in, spatial...) -> (B, out, spatial...)."""
        convolve = F.conv2d if x.dim() == 4 else F.conv3d
        geometry = [self.arguments[name] for name in ("stride", "padding", "dilation")]
        narrow = convolve(self.dropout(x), self.lora_A, None, *geometry)  # (B, r, spatial...)
        return convolve(x, self.weight, self.bias, *geometry) + self.scale * convolve(narrow, self.lora_B)

    def plain(self) -> nn.Conv2d | nn.Conv3d:
        """Give the pretrained layer, sharing its tensors."""
        layer = self.kind(**self.arguments, bias=self.bias is not None, device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        return layer

    def merged(self) -> nn.Conv2d | nn.Conv3d:
        """Give a plain layer with weight W + (alpha / rank) B A."""
        update = self.lora_B.detach().flatten(1) @ self.lora_A.detach().flatten(1)  # (out, in k^d)
        layer = self.plain()
        layer.weight = nn.Parameter(self.weight.detach() + self.scale * update.view_as(self.weight))
        layer.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return layer

    def extra_repr(self) -> str:
        """Say the layer's size and the rank."""
        channels = f"{self.arguments['in_channels']}, {self.arguments['out_channels']}"
        return f"{channels}, kernel_size={self.arguments['kernel_size']}, rank={len(self.lora_A)}"
