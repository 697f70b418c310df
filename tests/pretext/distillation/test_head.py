# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The head: a weight-normed last layer of gain 1."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from monai_essa.pretext.distillation.head import DINOHead, PrototypeHead

SIZE = DINOHead(prototypes=5, hidden_size=7, bottleneck=4)


def test_it_is_an_mlp_a_bottleneck_of_unit_length_and_a_weight_normed_layer():
    head = PrototypeHead(6, SIZE).double()
    mlp = nn.Sequential(head.layers[0], nn.GELU(), head.layers[1], nn.GELU(), head.layers[2])
    last = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5, bias=False).double(), dim=0)
    last.parametrizations.weight.original0.data.fill_(1)
    last.parametrizations.weight.original1.data.copy_(head.prototypes.data)

    tokens = torch.randn(3, 6, dtype=torch.float64)
    expected = last(nn.functional.normalize(mlp(tokens), dim=-1))
    torch.testing.assert_close(head(tokens), expected, rtol=1e-6, atol=1e-6)

    gradients = torch.autograd.grad(head(tokens).square().sum(), head.prototypes)[0]
    reference = torch.autograd.grad(expected.square().sum(), last.parametrizations.weight.original1)[0]
    torch.testing.assert_close(gradients, reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prototypes", [1, 0, -4])
def test_fewer_than_two_prototypes_are_refused(prototypes: int):
    with pytest.raises(ValueError, match=f"expected two prototypes or more, got {prototypes}"):
        DINOHead(prototypes=prototypes)
