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

"""Decoder blocks that do not learn compute what MONAI's do, and keep three tensors of a residual block."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock

from monai_essa.efficiency.frozen_decoder import fits_frozen_decoder, frozen_residual_block, frozen_up_block


@pytest.mark.parametrize("channels", [(4, 8), (8, 8)])
@pytest.mark.parametrize("norm", ["instance", ("group", {"num_groups": 2}), "batch"])
def test_a_residual_block_equals_monais(channels, norm):
    block = UnetResBlock(3, *channels, 3, 1, norm).double().requires_grad_(False)
    twin = copy.deepcopy(block)
    x = torch.rand(2, channels[0], 6, 6, 6, dtype=torch.float64, requires_grad=True)
    ours, theirs = frozen_residual_block(block.eval(), x), twin.eval()(x)
    assert torch.equal(ours, theirs)
    weight = torch.rand_like(theirs)
    (one,), (other,) = (torch.autograd.grad((y * weight).sum(), x) for y in (ours, theirs))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_an_upsampling_block_equals_monais():
    block = UnetrUpBlock(3, 6, 4, 3, 2, "instance", res_block=True).double().requires_grad_(False)
    low = torch.rand(1, 6, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    skip = torch.rand(1, 4, 8, 8, 8, dtype=torch.float64, requires_grad=True)
    ours, theirs = frozen_up_block(block, low, skip), block(low, skip)
    assert torch.equal(ours, theirs)
    weight = torch.rand_like(theirs)
    for one, other in zip(*(torch.autograd.grad((y * weight).sum(), (low, skip)) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_blocks_that_learn_or_are_of_another_kind_are_left_alone():
    frozen = UnetResBlock(3, 4, 4, 3, 1, "instance").requires_grad_(False)
    assert fits_frozen_decoder(frozen, UnetResBlock) and not fits_frozen_decoder(frozen, UnetrUpBlock)
    frozen.conv2.conv.weight.requires_grad_(True)
    assert not fits_frozen_decoder(frozen, UnetResBlock)
    assert not fits_frozen_decoder(UnetBasicBlock(3, 4, 4, 3, 1, "instance").requires_grad_(False), UnetResBlock)
    basic = UnetrUpBlock(3, 6, 4, 3, 2, "instance", res_block=False).requires_grad_(False)
    assert not fits_frozen_decoder(basic, UnetrUpBlock)
