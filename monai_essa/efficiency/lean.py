# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Lean training: the same function and the same gradients, for less memory and fewer operations."""

from __future__ import annotations

import torch
import torch.nn as nn
from monai.networks.blocks import TransformerBlock, UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.blocks.mlp import MLPBlock
from monai.networks.nets.swin_unetr import SwinTransformerBlock, WindowAttention
from torch import Tensor

from monai_essa.efficiency.decoder_blocks import fits_decoder_block, residual_block, up_block
from monai_essa.efficiency.frozen_convolution import fits_frozen_convolution, frozen_convolution
from monai_essa.efficiency.frozen_linear import stored_linear
from monai_essa.efficiency.global_attention import fits_global_attention, global_attention
from monai_essa.efficiency.recompute import own_forward, recomputed, recomputed_but_attention
from monai_essa.efficiency.window_attention import window_attention, window_groups
from monai_essa.lean_marks import LeanForward, store_frozen, take_lean_off

__all__ = ["lean"]

_CHOICES = {"attention": ("sdpa", "stock"), "recompute": ("none", "mlp", "block")}


def lean(
    network: nn.Module,
    attention: str = "sdpa",
    recompute: str = "none",
    frozen_dtype: torch.dtype | None = None,
    residual_dtype: torch.dtype | None = None,
    off: bool = False,
) -> nn.Module:
    """Make training cheaper without changing what is computed. In place; the same object is returned.

    Classes and state-dict keys stay as they are, and :func:`monai_essa.merge` returns the plain network. Call it after
    ``adapt``, which refuses a lean network, and on the objective rather than the network where a pretext decoder should
    be lean too. Calling it again replaces what was chosen before.

    What learns may change later, as when layers are unfrozen one after another: each layer decides in its forward pass.
    A weight that ``frozen_dtype`` has stored cannot begin to learn, and the forward pass says so: call ``lean`` again.

    Without any option: attention by torch's fused kernel in ViT, UNETR, MAE and Swin blocks; convolutions that do not
    learn keep no input; decoder blocks of UNETR and SwinUNETR keep the outputs of their convolutions alone.

    Args:
        network: an adapted network, or a module that holds one.
        attention: ``"sdpa"``, or ``"stock"`` for MONAI's own.
        recompute: ``"mlp"`` computes each MLP again in the backward pass, ``"block"`` all of a transformer block but
            its attention. Exact.
        frozen_dtype: number format in which frozen weights of linear and convolution layers are stored; pass that of
            autocast, which then has nothing to cast. What they were is kept on the CPU. Adapter layers keep theirs. A
            network that is converted later, as by ``double()``, gets the exact weights back in the new format.
        residual_dtype: with ``recompute="block"``, number format in which the input of each block is kept for the
            backward pass. The gradient is taken at the rounded input.
        off: undo all of it.

    Raises:
        ValueError: if a choice is unknown, or ``residual_dtype`` is given without ``recompute="block"``.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> from monai_essa.methods import APLA
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), APLA())
        >>> lean(net, recompute="block") is net
        True
    """
    for name, choice in (("attention", attention), ("recompute", recompute)):
        if choice not in _CHOICES[name]:
            raise ValueError(f"expected {name} to be one of {', '.join(_CHOICES[name])}, got {choice!r}")
    if residual_dtype is not None and recompute != "block":
        raise ValueError(f"residual_dtype needs recompute='block', got {recompute!r}: only there is the input kept")
    take_lean_off(network)
    if off:
        return network
    for module in list(network.modules()):
        if attention == "sdpa":
            _attend_lean(module)
        if recompute == "mlp" and isinstance(module, MLPBlock):
            LeanForward(recomputed, module).put_on()
        if recompute == "block" and isinstance(module, (TransformerBlock, SwinTransformerBlock)):
            run = vars(module)["forward"].func if "forward" in vars(module) else own_forward
            LeanForward(recomputed_but_attention, module, run=run, residual_dtype=residual_dtype).put_on()
        _keep_less(module)
        if frozen_dtype is not None:
            _store_frozen(module, frozen_dtype)
    return network


def _store_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    if type(module) is nn.Linear and not module.weight.requires_grad:
        store_frozen(module, dtype)
        LeanForward(stored_linear, module).put_on()
    elif fits_frozen_convolution(module):
        store_frozen(module, dtype)


def _attend_lean(module: nn.Module) -> None:
    if fits_global_attention(module):
        LeanForward(global_attention, module).put_on()
    elif isinstance(module, WindowAttention):
        LeanForward(window_attention, module).put_on()
    elif isinstance(module, SwinTransformerBlock):
        LeanForward(_shift_by_groups, module).put_on()


def _shift_by_groups(block: SwinTransformerBlock, x: Tensor, mask_matrix: Tensor) -> Tensor:
    """Run a Swin block (B, cells..., C) with groups of windows in place of MONAI's mask for each window."""
    groups = window_groups(block, x.shape[1:-1])
    return type(block).forward(block, x, groups)


def _keep_less(module: nn.Module) -> None:
    if fits_frozen_convolution(module):
        LeanForward(frozen_convolution, module).put_on()
    elif fits_decoder_block(module, UnetResBlock):
        LeanForward(residual_block, module).put_on()
    elif fits_decoder_block(module, UnetrUpBlock):
        LeanForward(up_block, module).put_on()
