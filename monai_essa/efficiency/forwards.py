# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The forward passes of lean training: attention as fused kernels, frozen convolutions, and decoder blocks.

Attention is global or within windows, of which one mask at a time is made. Convolutions and decoder blocks keep little
for the backward pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets.swin_unetr import SwinTransformerBlock, WindowAttention, get_window_size
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint

from monai_essa.anatomy.lean_marks import check_still_frozen
from monai_essa.efficiency.stock_forwards import has_known_forward
from monai_essa.methods.apla import as_autocast_would

__all__ = [
    "WindowGroup",
    "fits_decoder_block",
    "fits_frozen_convolution",
    "fits_global_attention",
    "fits_window_attention",
    "frozen_convolution",
    "global_attention",
    "residual_block",
    "up_block",
    "window_attention",
    "window_groups",
]

_APART = -100.0  # added between positions that are not neighbours, as in MONAI's compute_mask
_KINDS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


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


def fits_frozen_convolution(module: nn.Module) -> bool:
    """Tell whether a module is one of torch's own convolutions, pads with zeros and does not learn."""
    return (
        type(module) in _KINDS
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not any(parameter.requires_grad for parameter in module.parameters())
    )


def frozen_convolution(layer: Any, x: Tensor, *output_size: Any) -> Tensor:
    """Compute what the layer computes, and keep its weight alone for the backward pass.

    torch keeps the input of every convolution, although the gradient of the input needs the weight only. A layer that
    learns since, weight or bias, runs torch's own forward pass and gets its gradient.

    Args:
        layer: a convolution of any number of dimensions, transposed or not.
        x: (B, C, spatial...), or one image without the batch axis.
        output_size: of a transposed convolution, where it is given.

    Raises:
        RuntimeError: if the weight learns since it was stored in fewer bits.
    """
    if output_size:
        resized: Tensor = type(layer).forward(layer, x, *output_size)
        return resized
    check_still_frozen(layer)
    (x,) = as_autocast_would(x)
    weight, bias = layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype)
    settings = (layer.stride, layer.padding, layer.dilation, layer.transposed, layer.output_padding, layer.groups)
    batch = x if x.dim() == weight.dim() else x[None]
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        y = torch.convolution(batch, weight, bias, *settings)
    else:
        y = _FrozenConvolution.apply(batch, weight, bias, settings)
    return y if batch is x else y[0]


def fits_decoder_block(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether a module is MONAI's residual block, or MONAI's upsampling block around one, not a subclass.

    Args:
        module: any module.
        kind: ``UnetResBlock`` or ``UnetrUpBlock``.
    """
    if type(module) is not kind:
        return False
    residual = module.conv_block if kind is UnetrUpBlock else module
    return isinstance(residual, UnetResBlock) and has_known_forward(module) and has_known_forward(residual)


def residual_block(block: UnetResBlock, x: Tensor) -> Tensor:
    """Compute what ``UnetResBlock.forward`` computes; (B, C, spatial...) -> (B, C', spatial'...)."""
    hidden = block.conv1(x)
    shortcut = block.conv3(x) if hasattr(block, "conv3") else x
    del x  # the concatenation in front of a decoder block is as large as two of its outputs
    if any(parameter.requires_grad for parameter in block.conv2.parameters()):
        hidden = _again(_second_convolution, block, hidden)
    else:
        hidden = block.conv2(_again(_activation, block, hidden))
    return _again(_join, block, hidden, shortcut)


def up_block(block: UnetrUpBlock, inp: Tensor, skip: Tensor) -> Tensor:
    """Compute what ``UnetrUpBlock.forward`` computes, and let go of the concatenation as soon as it was used."""
    return residual_block(block.conv_block, torch.cat((block.transp_conv(inp), skip), dim=1))


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


class _FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[Any, ...]) -> Tensor:
        return torch.convolution(x, weight, bias, *settings)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, settings = inputs
        ctx.save_for_backward(weight)
        ctx.cells, ctx.settings = x.shape[2:], settings  # type: ignore[attr-defined]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors  # type: ignore[attr-defined]
        cells, (stride, padding, dilation, transposed, _, groups) = ctx.cells, ctx.settings  # type: ignore[attr-defined]
        # The gradient of a convolution is the transposed convolution with its weight, and the other way round.
        # torch.ops.aten.convolution_backward would make a copy of the input, of which it needs the shape alone.
        missing = [0] * len(cells) if transposed else _missing(grad, weight, cells, stride, padding, dilation)
        back = (stride, padding, dilation, not transposed, missing, groups)
        return torch.convolution(grad, weight, None, *back), None, None, None


def _missing(
    grad: Tensor, weight: Tensor, cells: Sequence[int], stride: Sequence[int], padding: Sequence[int], by: Sequence[int]
) -> list[int]:
    """Cells at the end of each axis that no stride reached: a transposed convolution has to be told."""
    reached = (
        (grad.shape[2 + axis] - 1) * stride[axis] - 2 * padding[axis] + by[axis] * (weight.shape[2 + axis] - 1) + 1
        for axis in range(len(cells))
    )
    return [there - came for there, came in zip(cells, reached, strict=True)]


def _again(function: Callable[..., Tensor], block: UnetResBlock, *inputs: Tensor) -> Tensor:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _uncounted(block)

    return checkpoint(function, block, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _uncounted(block: nn.Module) -> Iterator[None]:
    """Put the running statistics of the block's norms back at the end: the first run has counted the batch already."""
    counted = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        for buffer, value in counted:
            buffer.copy_(value)


def _activation(block: UnetResBlock, hidden: Tensor) -> Tensor:
    return block.lrelu(block.norm1(hidden))


def _second_convolution(block: UnetResBlock, hidden: Tensor) -> Tensor:
    # The recomputation stops where the convolution has its input back: it is not run twice.
    return block.conv2(_activation(block, hidden))


def _join(block: UnetResBlock, hidden: Tensor, shortcut: Tensor) -> Tensor:
    hidden = block.norm2(hidden)
    hidden += block.norm3(shortcut) if hasattr(block, "norm3") else shortcut
    return block.lrelu(hidden)
