# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Self-attention over all tokens by torch's fused kernel, which never holds the attention matrix."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks.selfattention import SABlock

__all__ = ["fits_global_attention", "global_attention"]


def fits_global_attention(module: nn.Module) -> bool:
    """Tell whether a module is MONAI's self-attention in a form that the fused kernel computes.

    Relative positions, an attention matrix kept for figures and a number format of its own are left to MONAI.
    """
    return (
        isinstance(module, SABlock)
        and module.rel_positional_embedding is None
        and not module.save_attn
        and module.attention_dtype is None
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
