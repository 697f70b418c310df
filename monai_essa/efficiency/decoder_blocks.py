# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Decoder blocks of UNETR and SwinUNETR that keep the outputs of their convolutions and compute the rest again.

Norms and activations cost no matrix product. In the backward pass they are computed again from what the convolution
before them gave; a convolution that learns finds its input in this way, and one that does not needs none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["fits_decoder_block", "residual_block", "up_block"]


def fits_decoder_block(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether a module is a residual block, or an upsampling block around one, that may be run twice.

    A batch norm that learns may not: it would count a batch twice in its running statistics.
    """
    residual = module.conv_block if isinstance(module, UnetrUpBlock) else module
    return (
        isinstance(module, kind)
        and isinstance(residual, UnetResBlock)
        and not any(_counts_batches(norm) for norm in residual.modules())
    )


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


def _counts_batches(norm: nn.Module) -> bool:
    counts = getattr(norm, "running_mean", None) is not None
    return counts and any(parameter.requires_grad for parameter in norm.parameters())


def _again(function: Callable[..., Tensor], *inputs: object) -> Tensor:
    return checkpoint(function, *inputs, use_reentrant=False)


def _activation(block: UnetResBlock, hidden: Tensor) -> Tensor:
    return block.lrelu(block.norm1(hidden))


def _second_convolution(block: UnetResBlock, hidden: Tensor) -> Tensor:
    # The recomputation stops where the convolution has its input back: it is not run twice.
    return block.conv2(_activation(block, hidden))


def _join(block: UnetResBlock, hidden: Tensor, shortcut: Tensor) -> Tensor:
    hidden = block.norm2(hidden)
    hidden += block.norm3(shortcut) if hasattr(block, "norm3") else shortcut
    return block.lrelu(hidden)
