# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Random values for what a method adds, and for nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import ViT

from monai_essa import adapt
from monai_essa.engines import initialise
from monai_essa.methods import APLA, FullTuning, LoRA


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(1, 32, 16, 24, 48, 2, 4, spatial_dims=2, num_classes=2, classification=True)


class Scaled(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.scale, self.shift = nn.Parameter(torch.ones(400)), nn.Parameter(torch.zeros(400))


@dataclass(frozen=True)
class Scaling:
    """A factor that starts at one and a summand that starts at zero."""

    def claims(self, network):
        return {"norm.weight"}

    def inject(self, network):
        network.norm = Scaled(network.norm)
        return {"norm.scale", "norm.shift"}


def test_only_added_tensors_are_drawn():
    net = adapt(vit(), [APLA(columns=3), LoRA(rank=4)], also_train=[r"classification_head\..*"])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    initialise(net, "random", seed=3)
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"blocks.{i}.attn.qkv.lora_{side}.{target}" for i in (0, 1) for side in "AB" for target in "qv"}
    drawn = torch.cat([net.state_dict()[name].flatten() for name in changed])
    assert drawn.mean().abs() < 0.003 and 0.018 < drawn.std() < 0.022


def test_a_factor_is_drawn_around_one():
    net = initialise(adapt(vit(), Scaling()), "random")
    assert abs(net.norm.scale.mean() - 1) < 0.005 and 0.017 < net.norm.scale.std() < 0.023
    assert net.norm.shift.mean().abs() < 0.005 and 0.017 < net.norm.shift.std() < 0.023


def test_the_seed_and_the_name_decide():
    def values(seed):
        net = initialise(adapt(vit(), LoRA()), "random", seed=seed)
        return [block.attn.qkv.lora_B["q"] for block in net.blocks]

    assert torch.equal(values(1)[0], values(1)[0])
    assert not torch.equal(values(1)[0], values(2)[0])
    assert not torch.equal(*values(1))


def test_the_methods_own_start_changes_nothing():
    net = initialise(adapt(vit(), LoRA()), "method")
    assert not any(block.attn.qkv.lora_B["q"].any() for block in net.blocks)


@pytest.mark.parametrize("method", [APLA(), APLA(columns=3), FullTuning()])
def test_a_method_that_adds_nothing_is_refused(method):
    with pytest.raises(ValueError, match=f"{type(method).__name__} adds none: set initialisation: method, or take"):
        initialise(adapt(vit(), method), "random")


def test_values_of_an_adapter_file_are_not_overwritten():
    with pytest.raises(ValueError, match="'random' would overwrite the adapter file's tensors: set start: encoder"):
        initialise(adapt(vit(), LoRA()), "random", start="adapter")


def test_another_initialisation_is_refused():
    with pytest.raises(ValueError, match="initialisation must be one of method, random, got 'zero'"):
        initialise(adapt(vit(), LoRA()), "zero")
