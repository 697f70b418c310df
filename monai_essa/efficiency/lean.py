# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Lean training: the same function and gradients, with less kept for the backward pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks import TransformerBlock, UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.blocks.mlp import MLPBlock
from monai.networks.nets.swin_unetr import SwinTransformerBlock
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from monai_essa.anatomy.blocks import transformer_blocks
from monai_essa.anatomy.described.description import is_described
from monai_essa.anatomy.lean_marks import LeanForward, check_still_frozen, store_frozen, take_lean_off
from monai_essa.efficiency.forwards import (
    fits_decoder_block,
    fits_frozen_convolution,
    fits_global_attention,
    fits_window_attention,
    frozen_convolution,
    global_attention,
    residual_block,
    up_block,
    window_attention,
    window_groups,
)
from monai_essa.methods.adaptformer import AdaptFormerMLP

__all__ = ["lean", "own_forward", "recomputed", "recomputed_but_attention", "stored_linear"]

_logger = logging.getLogger(__name__)
_CHOICES = {"attention": ("sdpa", "stock"), "recompute": ("none", "mlp", "block")}
Forward = Callable[..., Any]
_ATEN = torch.ops.aten
_ATTENTION = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
}


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
    learn keep no input; decoder blocks of UNETR and SwinUNETR keep the outputs of their convolutions alone. Only blocks
    whose class and code are MONAI's of a release that this was written for are replaced. Others keep their own forward
    pass; where a class of MONAI has other code, one warning says so. The blocks of a described encoder keep their
    attention, and are recomputed as MONAI's are unless that would move running statistics twice, which a warning says.

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
        if recompute == "mlp" and isinstance(module, (MLPBlock, AdaptFormerMLP)):
            LeanForward(recomputed, module).put_on()
        if recompute == "block" and isinstance(module, (TransformerBlock, SwinTransformerBlock)):
            run = vars(module)["forward"].func if "forward" in vars(module) else own_forward
            LeanForward(recomputed_but_attention, module, run=run, residual_dtype=residual_dtype).put_on()
        _keep_less(module)
        if frozen_dtype is not None:
            _store_frozen(module, frozen_dtype)
        if recompute != "none" and is_described(module):
            _recompute_described(module, recompute)
    return network


def own_forward(module: nn.Module, *inputs: Any, **named: Any) -> Any:
    """Run the forward pass of a module's class, whatever stands in its place on the module."""
    return type(module).forward(module, *inputs, **named)


def recomputed(module: nn.Module, *inputs: Any, run: Forward = own_forward, **named: Any) -> Any:
    """Run a module and keep its inputs only (``torch.utils.checkpoint``); what it computes is computed again.

    The recomputation stops at the last tensor that the backward pass needs, so a frozen last layer is not run twice.

    Args:
        module: the module.
        inputs: of its forward pass.
        run: its forward pass.
        named: of its forward pass.
    """
    if not torch.is_grad_enabled():
        return run(module, *inputs, **named)
    return checkpoint(run, module, *inputs, use_reentrant=False, **named)


def recomputed_but_attention(
    module: nn.Module, *inputs: Any, run: Forward = own_forward, residual_dtype: torch.dtype | None = None, **named: Any
) -> Any:
    """Run a transformer block and keep its input and the output of its attention; the rest is computed again.

    Attention is the costly part for long sequences, and its output is what W_O learns from (torch's selective
    activation checkpointing). Norms, qkv and the MLP are cheap beside it.

    Args:
        module: the block.
        inputs: of its forward pass.
        run: its forward pass.
        residual_dtype: number format in which the input is kept; None keeps it as it is.
        named: of its forward pass.
    """
    if not torch.is_grad_enabled():
        return run(module, *inputs, **named)
    contexts = partial(create_selective_checkpoint_contexts, _keep_attention)
    with nullcontext() if residual_dtype is None else _kept_in(residual_dtype):
        return checkpoint(run, module, *inputs, use_reentrant=False, context_fn=contexts, **named)


def stored_linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Compute what the layer computes with its weight as it is stored; x (..., in) -> (..., out).

    Under autocast nothing is left to cast. Outside of it, in a figure or a validation in fp32, the weight is brought to
    the type of the input for the moment.

    Raises:
        RuntimeError: if the weight learns since it was stored.
    """
    check_still_frozen(layer)
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:  # which autocast leaves alone
        return F.linear(x, layer.weight, layer.bias)
    return F.linear(x, layer.weight.to(x.dtype), layer.bias)


def _store_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    if type(module) is nn.Linear and not module.weight.requires_grad:
        store_frozen(module, dtype)
        LeanForward(stored_linear, module).put_on()
    elif fits_frozen_convolution(module):
        store_frozen(module, dtype)


def _attend_lean(module: nn.Module) -> None:
    if fits_global_attention(module):
        LeanForward(global_attention, module).put_on()
    elif fits_window_attention(module):
        LeanForward(_shift_by_groups, module).put_on()
        LeanForward(window_attention, module.attn).put_on()  # only here: no other block hands it groups of windows


def _recompute_described(network: nn.Module, recompute: str) -> None:
    """Recompute the blocks of a described encoder, or their MLPs, where a second run computes the same."""
    for parts in transformer_blocks(network):
        path = parts.path if recompute == "block" else parts.mlp[0].rpartition(".")[0] if parts.mlp else ""
        module = network.get_submodule(path) if path else None
        if module is None or (recompute == "mlp" and path == parts.path):
            continue
        if _moves_statistics(module):
            _logger.warning("lean: '%s' is not recomputed, which would move its running statistics twice", path)
        else:
            LeanForward(recomputed_but_attention if recompute == "block" else recomputed, module).put_on()


def _moves_statistics(module: nn.Module) -> bool:
    return any(
        getattr(part, "running_mean", None) is not None and any(p.requires_grad for p in part.parameters(recurse=False))
        for part in module.modules()
    )


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


def _keep_attention(_: object, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE


def _kept_in(dtype: torch.dtype) -> torch.autograd.graph.saved_tensors_hooks:
    return torch.autograd.graph.saved_tensors_hooks(
        lambda kept: (kept.dtype, kept.to(dtype) if kept.dtype == torch.float32 else kept),
        lambda pair: pair[1].to(pair[0]),
    )
