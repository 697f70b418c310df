# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Fused attention computes what MONAI's own does."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks.selfattention import SABlock

from monai_essa.efficiency.forwards import fits_global_attention, global_attention

VARIANTS = {
    "plain": {},
    "bias": {"qkv_bias": True},
    "separate projections": {"use_combined_linear": False},
    "no output layer": {"include_fc": False},
    "causal": {"causal": True, "sequence_length": 11},
    "narrow heads": {"dim_head": 4},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_monais_attention_with_its_gradients(variant):
    block = SABlock(24, 4, **VARIANTS[variant]).double()
    x = torch.rand(2, 11, 24, dtype=torch.float64, requires_grad=True)
    assert fits_global_attention(block)
    ours, theirs = global_attention(block, x), block(x)
    torch.testing.assert_close(ours, theirs)
    weight = torch.rand_like(theirs)
    for one, other in zip(
        torch.autograd.grad((ours * weight).sum(), [x, *block.parameters()]),
        torch.autograd.grad((theirs * weight).sum(), [x, *block.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_masked_tokens_get_no_attention():
    block = SABlock(24, 4).double()
    x, mask = torch.rand(2, 11, 24, dtype=torch.float64), (torch.arange(11) < 7).expand(2, -1).int()
    torch.testing.assert_close(global_attention(block, x, mask), block(x, mask))


def test_attention_is_dropped_in_training_only():
    block = SABlock(24, 4, dropout_rate=0.5)
    x = torch.rand(2, 11, 24)
    assert torch.equal(global_attention(block.eval(), x), global_attention(block, x))
    torch.testing.assert_close(global_attention(block, x), block(x))
    assert not torch.equal(global_attention(block.train(), x), global_attention(block, x))


def test_what_the_kernel_cannot_do_is_left_to_monai():
    assert not fits_global_attention(SABlock(24, 4, save_attn=True))
    assert not fits_global_attention(SABlock(24, 4, attention_dtype=torch.float32))
    assert not fits_global_attention(SABlock(24, 4, rel_pos_embedding="decomposed", input_size=(4, 4)))
