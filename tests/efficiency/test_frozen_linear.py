# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A linear layer with a stored weight computes under autocast and outside of it."""

from __future__ import annotations

import copy

import torch
import torch.nn as nn

from monai_essa.efficiency.frozen_linear import stored_linear
from monai_essa.lean_marks import store_frozen


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
