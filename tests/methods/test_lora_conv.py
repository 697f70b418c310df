# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""LoRA on convolutions against the peft package."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn as nn

from monai_essa.methods.lora import LoRAConv

CONVOLUTIONS = {
    "2d": lambda: nn.Conv2d(3, 8, 3, padding=1),
    "2d-strided": lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
    "2d-uneven": lambda: nn.Conv2d(3, 8, (3, 1), stride=(1, 2), padding=(1, 0)),
    "3d": lambda: nn.Conv3d(3, 8, 3, padding=1, bias=False),
    "3d-strided": lambda: nn.Conv3d(3, 8, 2, stride=2),
    "3d-pointwise": lambda: nn.Conv3d(3, 8, 1),
}


def images(conv: nn.Module) -> torch.Tensor:
    return torch.randn(2, 3, *(6,) * (conv.weight.dim() - 2))


def learned(conv: nn.Module) -> LoRAConv:
    layer = LoRAConv(conv, rank=2, alpha=6)
    nn.init.normal_(layer.lora_B)
    return layer


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_output_and_gradients_equal_peft(kind):
    peft = pytest.importorskip("peft", reason="the oracle is the peft package: pip install monai_essa[peft]")
    conv = CONVOLUTIONS[kind]()
    ours = learned(conv)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0"])
    theirs = peft.inject_adapter_in_model(config, nn.Sequential(copy.deepcopy(conv)))[0]
    pairs = [(ours.lora_A, theirs.lora_A["default"].weight), (ours.lora_B, theirs.lora_B["default"].weight)]
    with torch.no_grad():
        for mine, other in pairs:
            assert mine.shape == other.shape
            other.copy_(mine)
    x = images(conv)
    ours_out, theirs_out = ours(x), theirs(x)
    torch.testing.assert_close(ours_out, theirs_out, rtol=1e-6, atol=1e-6)
    ours_out.square().mean().backward()
    theirs_out.square().mean().backward()
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "conv", [*(make() for make in CONVOLUTIONS.values()), nn.Conv2d(3, 8, 3, padding="same", dilation=2)]
)
def test_merged_convolution_computes_the_same(conv):
    layer, x = learned(conv), images(conv)
    merged = layer.merged()
    torch.testing.assert_close(merged(x), layer(x), rtol=1e-5, atol=1e-5)
    assert not torch.equal(merged.weight, conv.weight)
    assert merged.extra_repr() == conv.extra_repr() and type(merged) is type(conv)


def test_a_starts_kaiming_uniform_and_b_at_zero():
    conv = nn.Conv3d(16, 32, 3)
    layer = LoRAConv(conv, rank=8, alpha=8)
    limit = 1 / math.sqrt(16 * 27)  # kaiming_uniform with a = sqrt(5): sqrt(6 / (1 + a^2) / fan_in)
    assert 0.95 * limit < layer.lora_A.detach().abs().max() <= limit
    x = torch.randn(1, 16, 4, 4, 4)
    assert torch.equal(layer(x), conv(x))


def test_plain_shares_and_merged_copies():
    conv = nn.Conv2d(3, 8, 3)
    layer = learned(conv)
    assert layer.plain().weight is conv.weight and layer.plain().bias is conv.bias
    assert layer.merged().bias.data_ptr() != conv.bias.data_ptr()


def test_dropout_acts_in_training_only():
    layer = LoRAConv(nn.Conv2d(3, 8, 3), rank=2, alpha=2, dropout=0.5)
    nn.init.ones_(layer.lora_B)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(layer.eval()(x), layer(x))
    assert not torch.equal(layer.train()(x), layer(x))


def test_a_layer_placed_in_a_network_in_eval_mode_drops_nothing():
    layer, x = LoRAConv(nn.Conv2d(3, 8, 3).eval(), rank=2, alpha=2, dropout=0.5), torch.rand(1, 3, 8, 8)
    nn.init.ones_(layer.lora_B)
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("conv", [nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")])
def test_groups_and_other_padding_are_refused(conv):
    with pytest.raises(ValueError, match="groups=1 and padding_mode='zeros', got Conv2d"):
        LoRAConv(conv, rank=2, alpha=2)
