# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Decoder blocks of UNETR and SwinUNETR that keep the outputs of their convolutions and compute the rest again.

Norms and activations cost no matrix product. In the backward pass they are computed again from what the convolution
before them gave; a convolution that learns finds its input in this way, and one that does not needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn as nn
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["fits_decoder_block", "residual_block", "up_block"]


def fits_decoder_block(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether a module is a residual block, or an upsampling block around one."""
    residual = module.conv_block if isinstance(module, UnetrUpBlock) else module
    return isinstance(module, kind) and isinstance(residual, UnetResBlock)


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
