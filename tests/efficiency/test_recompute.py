# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What is recomputed gives the same gradients, bit by bit, and attention is not run again."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks import TransformerBlock
from torch.utils._python_dispatch import TorchDispatchMode

from monai_essa.anatomy.lean_marks import LeanForward
from monai_essa.efficiency.forwards import global_attention
from monai_essa.efficiency.lean import recomputed, recomputed_but_attention


class Operations(TorchDispatchMode):
    """The names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def block_and_tokens(dropout=0.0):
    block = TransformerBlock(24, 48, 4, dropout_rate=dropout)
    LeanForward(global_attention, block.attn).put_on()
    return block, torch.rand(2, 9, 24, requires_grad=True)


def gradients(y, x, block):
    return torch.autograd.grad((y * torch.linspace(0, 1, y.numel()).view_as(y)).sum(), [x, *live(block)])


def live(block):
    return [parameter for name, parameter in block.named_parameters() if "cross" not in name]


@pytest.mark.parametrize("run", [recomputed, recomputed_but_attention])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_those_of_the_plain_block(run, dropout):
    block, x = block_and_tokens(dropout)
    torch.manual_seed(0)
    theirs = gradients(block(x), x, block)
    torch.manual_seed(0)
    ours = gradients(run(block, x), x, block)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_attention_is_kept_and_the_mlp_is_run_again():
    block, x = block_and_tokens()
    y = recomputed_but_attention(block, x)
    with Operations() as seen:
        y.sum().backward()
    assert "aten.gelu.default" in seen.names
    assert "aten._scaled_dot_product_flash_attention_for_cpu.default" not in seen.names


def test_the_input_may_be_kept_in_fewer_bits():
    block, x = block_and_tokens()
    exact = gradients(recomputed_but_attention(block, x), x, block)
    rounded = gradients(recomputed_but_attention(block, x, residual_dtype=torch.bfloat16), x, block)
    for one, other in zip(rounded, exact, strict=True):
        assert (one - other).norm() < 1e-2 * other.norm()
    assert not torch.equal(rounded[0], exact[0])


def test_without_gradients_nothing_is_kept():
    block, x = block_and_tokens()
    with torch.no_grad():
        assert torch.equal(recomputed(block, x), block(x))
        assert torch.equal(recomputed_but_attention(block, x), block(x))
