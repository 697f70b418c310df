# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Attention blocks of MONAI as fused kernels: global attention and windows of one mask at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets.swin_unetr import SwinTransformerBlock, WindowAttention, get_window_size
from torch import Tensor

from monai_essa.efficiency.stock_forwards import has_known_forward

__all__ = [
    "WindowGroup",
    "fits_global_attention",
    "fits_window_attention",
    "global_attention",
    "window_attention",
    "window_groups",
]

_APART = -100.0  # added between positions that are not neighbours, as in MONAI's compute_mask


def fits_global_attention(module: nn.Module) -> bool:
    """Tell whether a module is MONAI's self-attention in a form that the fused kernel computes.

    Relative positions, an attention matrix kept for figures and a number format of its own are left to MONAI.
    """
    return (
        type(module) is SABlock
        and module.rel_positional_embedding is None
        and not module.save_attn
        and module.attention_dtype is None
        and has_known_forward(module)
    )


def fits_window_attention(module: nn.Module) -> bool:
    """Tell whether a module is MONAI's Swin block around MONAI's window attention, neither of them a subclass."""
    return (
        type(module) is SwinTransformerBlock
        and type(module.attn) is WindowAttention
        and has_known_forward(module)
        and has_known_forward(module.attn)
    )


def global_attention(block: SABlock, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Compute what ``SABlock.forward`` computes; x (B, N, D) -> (B, N, D).

    MONAI's own switch, ``use_flash_attention``, is not reachable from ViT and UNETR, and drops attention weights in
    eval mode too. Here they are dropped in training mode only.

    Args:
        block: the attention block.
        x: tokens.
        attn_mask: (B, N), zero for tokens that nobody attends to.
    """
    if block.use_combined_linear:
        query, key, value = block.input_rearrange(block.qkv(x))  # each (B, heads, N, D / heads)
    else:
        query, key, value = (block.input_rearrange(layer(x)) for layer in (block.to_q, block.to_k, block.to_v))
    if block.causal and attn_mask is not None:
        raise ValueError("Causal attention does not support attention masks.")
    attended = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if attn_mask is None else attn_mask.bool()[:, None, None],
        dropout_p=block.drop_weights.p if block.training else 0.0,
        is_causal=block.causal,
        scale=block.scale,
    )
    return block.drop_output(block.out_proj(block.out_rearrange(attended)))


@dataclass(frozen=True)
class WindowGroup:
    """Windows of one image that have the same mask.

    Attributes:
        windows: their numbers in row-major order of the grid of windows.
        regions: region of each position in such a window (n,); positions of two regions do not attend to each other.
    """

    windows: tuple[int, ...]
    regions: tuple[int, ...]


def window_groups(block: SwinTransformerBlock, shape: Sequence[int]) -> tuple[WindowGroup, ...] | None:
    """Group the windows of a shifted block; None where the block does not shift.

    Args:
        block: the block.
        shape: cells of the feature map along each axis, before padding.
    """
    window, shift = get_window_size(tuple(shape), block.window_size, block.shift_size)
    if not any(shift):
        return None
    grid = [math.ceil(cells / size) for cells, size in zip(shape, window, strict=True)]
    # Along an axis that is shifted, the last window holds two regions: its end comes from the other side.
    axes = [
        [(range(count - 1), (0,) * size), (range(count - 1, count), (0,) * (size - by) + (1,) * by)]
        if by
        else [(range(count), (0,) * size)]
        for count, size, by in zip(grid, window, shift, strict=True)
    ]
    groups = (_group(choice, grid) for choice in itertools.product(*axes))
    return tuple(group for group in groups if group.windows)


def window_attention(attention: WindowAttention, x: Tensor, mask: tuple[WindowGroup, ...] | None) -> Tensor:
    """Compute what ``WindowAttention.forward`` computes, with the windows of one mask together.

    Args:
        attention: the attention layer.
        x: windows (B * windows, n, C).
        mask: what :func:`window_groups` returns, in place of MONAI's mask.

    Returns:
        (B * windows, n, C).
    """
    count, n, channels = x.shape
    heads = attention.num_heads
    query, key, value = attention.qkv(x).view(count, n, 3, heads, -1).permute(2, 0, 3, 1, 4)  # (count, heads, n, d)
    index = attention.relative_position_index[:n, :n].reshape(-1)  # type: ignore[index]
    bias = attention.relative_position_bias_table[index].view(n, n, heads).permute(2, 0, 1)[None].to(query.dtype)
    drop = attention.attn_drop.p if attention.training else 0.0
    if mask is None:
        attended = F.scaled_dot_product_attention(query, key, value, bias, dropout_p=drop, scale=attention.scale)
    else:
        total = sum(len(group.windows) for group in mask)
        parts = []
        for rows, regions in _groups_on(mask, total, count // total, x.device):
            apart = torch.where(regions[:, None] == regions, 0.0, _APART).to(bias.dtype)  # (n, n)
            parts.append(
                F.scaled_dot_product_attention(
                    query[rows], key[rows], value[rows], bias + apart, dropout_p=drop, scale=attention.scale
                )
            )
        attended = torch.cat(parts)[_inverse(mask, total, count // total, x.device)]
    attended = attended.transpose(1, 2).reshape(count, n, channels)
    return attention.proj_drop(attention.proj(attended))


def _group(choice: Sequence[tuple[range, tuple[int, ...]]], grid: Sequence[int]) -> WindowGroup:
    windows = tuple(
        sum(place * math.prod(grid[axis + 1 :]) for axis, place in enumerate(places))
        for places in itertools.product(*(places for places, _ in choice))
    )
    regions = tuple(
        sum(side << axis for axis, side in enumerate(sides))
        for sides in itertools.product(*(sides for _, sides in choice))
    )
    return WindowGroup(windows, regions)


def _groups_on(
    groups: tuple[WindowGroup, ...], total: int, batch: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    for group in groups:
        yield _rows(group.windows, total, batch, device), torch.tensor(group.regions, device=device)


def _rows(windows: Sequence[int], total: int, batch: int, device: torch.device) -> Tensor:
    """Rows of these windows among the windows of a batch."""
    first = torch.arange(batch, device=device)[:, None] * total
    return (first + torch.tensor(windows, device=device)).flatten()


def _inverse(groups: tuple[WindowGroup, ...], total: int, batch: int, device: torch.device) -> Tensor:
    """Where the row of each window is after the groups were put one behind another."""
    order = torch.cat([_rows(group.windows, total, batch, device) for group in groups])
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=device))
