# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Swin's attention by groups of windows computes what MONAI's does with a mask for each window."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinTransformerBlock, WindowAttention, compute_mask, get_window_size

from monai_essa.efficiency.forwards import window_attention, window_groups

SHAPES = [(14, 14, 14), (7, 14, 21), (9, 16, 5), (14, 21), (10, 30)]


def block_of(shape, shifted):
    dims = len(shape)
    return SwinTransformerBlock(24, 3, [7] * dims, [3 if shifted else 0] * dims).double()


def stock_mask(block, shape):
    window, shift = get_window_size(tuple(shape), block.window_size, block.shift_size)
    padded = [-(-cells // size) * size for cells, size in zip(shape, window, strict=True)]
    return compute_mask(padded, window, shift, "cpu")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_groups_rebuild_monais_mask(shape):
    block = block_of(shape, shifted=True)
    expected = stock_mask(block, shape)
    groups = window_groups(block, shape)
    assert sorted(window for group in groups for window in group.windows) == list(range(len(expected)))
    assert len(groups) <= 2 ** len(shape)
    for group in groups:
        regions = torch.tensor(group.regions)
        mask = torch.where(regions[:, None] == regions, 0.0, -100.0)
        assert all(torch.equal(expected[window], mask) for window in group.windows)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_monais_block_with_its_gradients(shape, shifted):
    block = block_of(shape, shifted)
    x = torch.rand(2, *shape, 24, dtype=torch.float64, requires_grad=True)
    theirs = block(x, stock_mask(block, shape))
    block.attn.forward = lambda windows, mask: window_attention(block.attn, windows, mask)
    ours = block(x, window_groups(block, shape))
    torch.testing.assert_close(ours, theirs)
    learn = [x, *block.parameters()]
    weight = torch.rand_like(theirs)
    for one, other in zip(
        torch.autograd.grad((ours * weight).sum(), learn),
        torch.autograd.grad((theirs * weight).sum(), learn),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_attention_is_dropped_in_training_only():
    attention = WindowAttention(24, 3, (4, 4), attn_drop=0.5)
    x = torch.rand(2, 16, 24)
    torch.testing.assert_close(window_attention(attention.eval(), x, None), attention(x, None))
    assert not torch.equal(window_attention(attention.train(), x, None), window_attention(attention, x, None))
