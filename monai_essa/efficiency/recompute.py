# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Recompute in the backward pass what is cheap to compute again, in place of keeping it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

__all__ = ["own_forward", "recomputed", "recomputed_but_attention"]

Forward = Callable[..., Any]

_ATEN = torch.ops.aten
_ATTENTION = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
}


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


def _keep_attention(_: object, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE


def _kept_in(dtype: torch.dtype) -> torch.autograd.graph.saved_tensors_hooks:
    return torch.autograd.graph.saved_tensors_hooks(
        lambda kept: (kept.dtype, kept.to(dtype) if kept.dtype == torch.float32 else kept),
        lambda pair: pair[1].to(pair[0]),
    )
