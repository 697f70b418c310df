# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Two tiny encoders that are not MONAI's, and their descriptions: tokens out, with prefix tokens; feature maps out."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_essa.anatomy import BlockDescription, EncoderDescription, MapDescription, TokenDescription


class OwnAttention(nn.Module):
    """Attention with queries, keys and values in one layer, one after another or head by head, or in three layers."""

    def __init__(self, dim: int, heads: int, layout: str) -> None:
        super().__init__()
        self.num_heads, self.layout = heads, layout
        if layout == "separate":
            self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        else:
            self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, dim = x.shape
        if self.layout == "by_head":
            parts = self.qkv(x).view(batch, count, self.num_heads, 3, -1).unbind(3)
        else:
            fused = torch.cat([self.q(x), self.k(x), self.v(x)], -1) if self.layout == "separate" else self.qkv(x)
            parts = fused.view(batch, count, 3, self.num_heads, -1).unbind(2)
        attended = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))
        return self.proj(attended.transpose(1, 2).reshape(batch, count, dim))


class OwnMLP(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class OwnBlock(nn.Module):
    def __init__(self, dim: int, heads: int, layout: str) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), OwnAttention(dim, heads, layout)
        self.gamma = nn.Parameter(torch.full((dim,), 0.5))
        self.norm2, self.mlp = nn.LayerNorm(dim), OwnMLP(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma * self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class OwnTokens(nn.Module):
    """A 2-D transformer with a class token, two registers, positions for all of them, and a classifier of its own."""

    def __init__(self, layout: str = "fused", size: int = 16) -> None:
        super().__init__()
        self.grid = (size // 8, size // 8)
        self.embed = nn.Conv2d(2, 24, 8, 8)
        self.first, self.registers = nn.Parameter(torch.randn(1, 1, 24)), nn.Parameter(torch.randn(1, 2, 24))
        self.places = nn.Parameter(torch.randn(1, 3 + size * size // 64, 24))
        self.blocks = nn.ModuleList(OwnBlock(24, 4, layout) for _ in range(2))
        self.last_norm, self.head = nn.LayerNorm(24), nn.Linear(24, 3)

    def tokens(self, images: Tensor) -> Tensor:
        patches = self.embed(images).flatten(2).transpose(1, 2)
        prefix = torch.cat([self.first, self.registers], 1).expand(len(images), -1, -1)
        x = torch.cat([prefix, patches], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.last_norm(x)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tokens(images)[:, 0])


class OwnMaps(nn.Module):
    """A 2-D encoder with a convolutional stem, a batch norm and attention over the cells of its feature map."""

    def __init__(self, layout: str = "by_head") -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 12, 4, 4, bias=False), nn.BatchNorm2d(12)
        self.blocks = nn.ModuleList(OwnBlock(12, 3, layout) for _ in range(2))
        self.neck = nn.Conv2d(12, 6, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images))
        cells = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.neck(x.transpose(1, 2).unflatten(2, cells))


_PARTS = {"output": "attn.proj", "mlp": ("mlp.fc1", "mlp.fc2"), "norms": ("norm1", "norm2")}
LAYOUTS = {
    "fused": BlockDescription(r"blocks\.\d", ("attn.qkv",), **_PARTS),
    "by_head": BlockDescription(r"blocks\.\d", ("attn.qkv",), heads="attn.num_heads", **_PARTS),
    "separate": BlockDescription(r"blocks\.\d", ("attn.q", "attn.k", "attn.v"), **_PARTS),
}
_TOKENS = TokenDescription("embed", "grid", "places", ("first", "registers"), final_norm="last_norm")


def tokens_anatomy(layout: str = "fused") -> EncoderDescription:
    return EncoderDescription(_TOKENS, LAYOUTS[layout], head=r"head\.")


def maps_anatomy(layout: str = "by_head") -> EncoderDescription:
    return EncoderDescription(MapDescription(in_channels=1, channels=6, stride=(4, 4)), LAYOUTS[layout])
