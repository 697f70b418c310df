# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A linear layer with a stored weight computes under autocast and outside of it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn

from monai_essa.anatomy.lean_marks import store_frozen
from monai_essa.efficiency.lean import stored_linear


def layers():
    plain = nn.Linear(8, 4).requires_grad_(False)
    stored = copy.deepcopy(plain)
    store_frozen(stored, torch.bfloat16)
    return plain, stored


def test_under_autocast_it_is_what_autocast_computes():
    plain, stored = layers()
    x = torch.rand(3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = stored_linear(stored, x), plain(x)
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(y.float().sum(), x)[0] for y in (ours, theirs)))


def test_outside_of_it_the_input_keeps_its_format():
    plain, stored = layers()
    x = torch.rand(3, 8)
    ours = stored_linear(stored, x)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, nn.functional.linear(x, plain.weight.bfloat16().float(), plain.bias))


INPUTS = {
    "one token": lambda x: x[0, 0],
    "no batch": lambda x: x[0],
    "batch": lambda x: x,
    "five axes": lambda x: x[None, :, None],
    "no token": lambda x: x[:, :0],
    "not contiguous": lambda x: x.transpose(0, 1),
    "float64": lambda x: x.double(),
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", INPUTS)
def test_takes_every_input_that_torchs_layer_takes(kind, autocast):
    plain = nn.Linear(8, 4).requires_grad_(False).to(INPUTS[kind](torch.rand(2, 3, 8)).dtype)
    with torch.no_grad():
        plain.weight.copy_(plain.weight.bfloat16())  # a value that is stored without loss
    stored, x = copy.deepcopy(plain), INPUTS[kind](torch.rand(2, 3, 8))
    store_frozen(stored, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, theirs = stored_linear(stored, x), plain(x)
    assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_a_stored_weight_that_learns_is_refused_and_its_bias_may_learn():
    _, layer = layers()
    x = torch.rand(3, 8)
    layer.bias.requires_grad_(True)
    stored_linear(layer, x).sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((4,), 3.0))
    layer.weight.requires_grad_(True)
    with pytest.raises(
        RuntimeError, match=r"^the weight of Linear\(in_features=8.* stored it as bfloat16 .*lean again"
    ):
        stored_linear(layer, x)
    with torch.no_grad():
        stored_linear(layer, x)
