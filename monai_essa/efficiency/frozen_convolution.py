# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Convolutions that do not learn, without keeping the input that only a learning one needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from monai_essa.lean_marks import check_still_frozen
from monai_essa.methods.apla import as_autocast_would

__all__ = ["fits_frozen_convolution", "frozen_convolution"]

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
