# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Decoder blocks of UNETR and SwinUNETR that do not learn, with the outputs of their convolutions kept and no more."""

from __future__ import annotations

import torch
import torch.nn as nn
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["fits_frozen_decoder", "frozen_residual_block", "frozen_up_block"]


def fits_frozen_decoder(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether a module is a residual block, or an upsampling block around one, that does not learn."""
    residual = module.conv_block if isinstance(module, UnetrUpBlock) else module
    return (
        isinstance(module, kind)
        and isinstance(residual, UnetResBlock)
        and not any(parameter.requires_grad for parameter in module.parameters())
    )


def frozen_residual_block(block: UnetResBlock, x: Tensor) -> Tensor:
    """Compute what ``UnetResBlock.forward`` computes; norms and activations are computed again in the backward pass.

    They cost no matrix product, and what they give is needed by learning convolutions alone.
    """
    hidden = block.conv1(x)
    shortcut = block.conv3(x) if hasattr(block, "conv3") else x
    del x  # the concatenation in front of a decoder block is as large as two of its outputs
    hidden = block.conv2(_again(_norm_act, block, hidden))
    return _again(_join, block, hidden, shortcut)


def frozen_up_block(block: UnetrUpBlock, inp: Tensor, skip: Tensor) -> Tensor:
    """Compute what ``UnetrUpBlock.forward`` computes, and let go of the concatenation as soon as it was used."""
    return frozen_residual_block(block.conv_block, torch.cat((block.transp_conv(inp), skip), dim=1))


def _again(function: object, *inputs: object) -> Tensor:
    return checkpoint(function, *inputs, use_reentrant=False)


def _norm_act(block: UnetResBlock, hidden: Tensor) -> Tensor:
    return block.lrelu(block.norm1(hidden))


def _join(block: UnetResBlock, hidden: Tensor, shortcut: Tensor) -> Tensor:
    hidden = block.norm2(hidden)
    hidden += block.norm3(shortcut) if hasattr(block, "norm3") else shortcut
    return block.lrelu(hidden)
