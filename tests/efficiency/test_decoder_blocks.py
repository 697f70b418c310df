# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Decoder blocks compute what MONAI's do, learning or not, and keep the outputs of their convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock

from monai_essa import lean
from monai_essa.anatomy.lean_marks import LeanForward
from monai_essa.cost.meter import LiveBytes, flop_counter
from monai_essa.efficiency.forwards import fits_decoder_block, residual_block, up_block


def compared(block, twin, *inputs):
    """Outputs and all gradients of both, in double precision."""
    ours, theirs = block(*inputs), twin(*inputs)
    assert torch.equal(ours, theirs)
    weight = torch.rand_like(theirs)
    learning = [[*inputs, *(p for p in net.parameters() if p.requires_grad)] for net in (block, twin)]
    gradients = [torch.autograd.grad((y * weight).sum(), own) for y, own in zip((ours, theirs), learning, strict=True)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("channels", [(4, 8), (8, 8)])
@pytest.mark.parametrize("norm", ["instance", ("group", {"num_groups": 2})])
def test_a_residual_block_equals_monais(channels, norm, learns):
    block = UnetResBlock(3, *channels, 3, 1, norm).double().requires_grad_(learns)
    twin = copy.deepcopy(block)
    LeanForward(residual_block, block).put_on()
    compared(block, twin, torch.rand(2, channels[0], 6, 6, 6, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("learns", [False, True])
def test_no_convolution_is_run_twice(learns):
    block = UnetResBlock(3, 4, 8, 3, 1, "instance").requires_grad_(learns)
    lean(block)
    x = torch.rand(1, 4, 8, 8, 8, requires_grad=True)
    with flop_counter() as counter:
        y = block(x)
        forward = counter.get_total_flops()
        y.sum().backward()
    # Backward, a convolution costs as much as forward for its input, and again for its weight if that learns.
    assert counter.get_total_flops() == (3 if learns else 2) * forward


def test_a_block_that_learns_keeps_one_tensor_less():
    block = UnetResBlock(3, 8, 8, 3, 1, "instance")
    x = torch.rand(1, 8, 16, 16, 16, requires_grad=True)

    def kept(run):
        with LiveBytes([x, *block.parameters()]) as meter:
            y = run(x)
            return round((meter.now - start) / y.nbytes)

    start = sum(tensor.nbytes for tensor in (x, *block.parameters()))
    assert kept(block) - kept(lambda x: residual_block(block, x)) == 1  # the activation between the convolutions


@pytest.mark.parametrize("learns", [False, True])
def test_an_upsampling_block_equals_monais(learns):
    block = UnetrUpBlock(3, 6, 4, 3, 2, "instance", res_block=True).double().requires_grad_(learns)
    twin = copy.deepcopy(block)
    LeanForward(up_block, block).put_on()
    low = torch.rand(1, 6, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    compared(block, twin, low, torch.rand(1, 4, 8, 8, 8, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("learns", [False, True])
def test_a_batch_norm_counts_each_batch_once(learns, training, momentum):
    block = UnetResBlock(3, 4, 8, 3, 1, "batch").double().requires_grad_(learns).train(training)
    for norm in (block.norm1, block.norm2, block.norm3):
        norm.momentum = momentum
    twin = copy.deepcopy(block)
    LeanForward(residual_block, block).put_on()
    compared(block, twin, torch.rand(2, 4, 6, 6, 6, dtype=torch.float64, requires_grad=True))
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in block.state_dict().items())
    assert all(norm.track_running_stats for norm in (block.norm1, block.norm2, block.norm3))


@pytest.mark.parametrize("part", ["conv1", "conv2", "conv3", "norm1", "norm2"])
def test_what_is_unfrozen_later_gets_the_gradient_of_monais_block(part):
    block = UnetResBlock(3, 4, 8, 3, 1, ("group", {"num_groups": 2})).double().requires_grad_(False)
    twin = copy.deepcopy(block)
    lean(block)
    for net in (block, twin):
        net.get_submodule(part).requires_grad_(True)
    compared(block, twin, torch.rand(2, 4, 6, 6, 6, dtype=torch.float64, requires_grad=True))


def test_blocks_of_another_kind_are_left_alone():
    block = UnetResBlock(3, 4, 4, 3, 1, "batch")
    assert fits_decoder_block(block, UnetResBlock)
    assert not fits_decoder_block(block, UnetrUpBlock)
    assert not fits_decoder_block(UnetBasicBlock(3, 4, 4, 3, 1, "instance"), UnetResBlock)
    assert not fits_decoder_block(UnetrUpBlock(3, 6, 4, 3, 2, "instance", res_block=False), UnetrUpBlock)
