# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A layer that takes the place of another holds the same tensors, names and hooks, and gives the other back."""

from __future__ import annotations

import torch
import torch.nn as nn
from monai.networks.blocks import MLPBlock

from monai_essa.methods.adoption import adopt, original_of


class Shifted(MLPBlock):
    def __init__(self, mlp: MLPBlock) -> None:
        adopt(self, mlp)
        self.offset = 1.0
        self.shift = nn.Parameter(torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.shift + self.offset


def test_tensors_and_children_are_shared_and_the_original_gains_nothing():
    mlp = MLPBlock(8, 16)
    names = list(mlp.state_dict())
    layer = Shifted(mlp)
    assert layer.linear1 is mlp.linear1 and list(layer.state_dict()) == ["shift", *names]
    assert list(mlp.state_dict()) == names and not hasattr(mlp, "shift")


def test_original_follows_what_the_layer_holds_now():
    mlp, x = MLPBlock(8, 16), torch.randn(2, 8)
    layer = Shifted(mlp)
    layer.linear1 = nn.Linear(8, 16)
    original = original_of(layer, MLPBlock, ("offset", "shift"))
    assert type(original) is MLPBlock and original.linear1 is layer.linear1
    assert vars(original).keys() == vars(mlp).keys() and not hasattr(original, "shift")
    torch.testing.assert_close(original(x) + 1, layer(x))


def test_hooks_stay_and_their_handles_still_remove_them():
    mlp, calls = MLPBlock(8, 16), []
    handle = mlp.register_forward_hook(lambda *_: calls.append(1))
    layer = Shifted(mlp)
    layer(torch.zeros(1, 8))
    original_of(layer, MLPBlock, ("offset", "shift"))(torch.zeros(1, 8))
    assert len(calls) == 2
    handle.remove()
    layer(torch.zeros(1, 8))
    assert len(calls) == 2
