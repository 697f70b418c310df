# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Frozen convolutions and decoder blocks that keep little for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn as nn
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint

from monai_essa.anatomy.lean_marks import check_still_frozen
from monai_essa.efficiency.stock_forwards import has_known_forward
from monai_essa.methods.apla import as_autocast_would

__all__ = ["fits_decoder_block", "fits_frozen_convolution", "frozen_convolution", "residual_block", "up_block"]

_KINDS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


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
