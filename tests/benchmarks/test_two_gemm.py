# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for partial W_O in two products and a scatter."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import ViT

from benchmarks.contenders import TwoGemmLinear, in_two_gemms
from monai_essa import adapt
from monai_essa.methods import APLA
from monai_essa.methods.apla import APLALinear


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_one_product(bias):
    torch.manual_seed(0)
    ours = APLALinear(nn.Linear(6, 8, bias=bias), torch.tensor([1, 4, 7]))
    with torch.no_grad():
        ours.rows.add_(0.5)  # as after some training: the learned rows are no longer those of the weight
    theirs = TwoGemmLinear(ours)
    x, pull = torch.randn(2, 5, 6), torch.randn(2, 5, 8)
    gradients = []
    for layer in (ours, theirs):
        own = x.clone().requires_grad_()
        y = layer(own)
        learned = [layer.rows] + ([layer.row_biases] if bias else [])
        gradients.append((y, *torch.autograd.grad((y * pull).sum(), [own, *learned])))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-6)


def test_as_many_values_learn_as_with_ours():
    layer = APLALinear(nn.Linear(6, 8), torch.tensor([1, 4, 7]))
    two = TwoGemmLinear(layer)
    assert sum(parameter.numel() for parameter in two.parameters() if parameter.requires_grad) == 3 * 6 + 3
    assert sum(parameter.numel() for parameter in two.parameters()) == 8 * 6 + 8
    assert two.rows.data_ptr() != layer.rows.data_ptr()


def test_every_partial_layer_of_a_network_is_replaced():
    net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), APLA(columns=0.25)).eval()
    image = torch.rand(1, 1, 32, 32, 32)
    before = net(image)[0]
    assert in_two_gemms(net) is net
    assert [type(block.attn.out_proj) for block in net.blocks] == [TwoGemmLinear] * 2
    torch.testing.assert_close(net(image)[0], before, rtol=1e-5, atol=1e-6)


def test_a_network_without_partial_layers_is_refused():
    with pytest.raises(ValueError, match="without a partial W_O"):
        in_two_gemms(nn.Linear(2, 2))
