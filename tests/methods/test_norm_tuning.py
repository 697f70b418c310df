# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Norm tuning, and batch norms whose statistics move with it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, SegResNet, UNet

from monai_essa import adapt, disable_adapter, load_adapter, merge, save_adapter
from monai_essa.adapters.adapted import adaptation_of
from monai_essa.methods import NormTuning


def learning(net: nn.Module) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


def batch_norm_unet() -> UNet:
    torch.manual_seed(0)
    return UNet(2, 1, 2, channels=(4, 8), strides=(2,), norm="batch")


def trained(net: nn.Module) -> nn.Module:
    """Some steps that move parameters and running statistics."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net.train()
    for _ in range(3):
        optimizer.zero_grad()
        net(2 + torch.randn(2, 1, 16, 16)).square().mean().backward()
        optimizer.step()
    return net.eval()


def test_norms_of_a_transformer_learn_with_the_final_one_and_without_dead_ones():
    net = adapt(UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2), NormTuning())
    norms = [f"vit.blocks.{i}.norm{j}" for i in range(12) for j in (1, 2)] + ["vit.norm"]
    assert learning(net) == {f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")}


@pytest.mark.parametrize("norm", ["batch", ("group", {"num_groups": 4}), ("instance", {"affine": True})])
def test_every_kind_of_norm_counts_in_the_encoder_only(norm):
    net = adapt(SegResNet(2, init_filters=8, blocks_down=(1, 1), blocks_up=(1,), norm=norm), NormTuning())
    assert learning(net) == {
        f"down_layers.{i}.1.norm{j}.{kind}" for i in (0, 1) for j in (1, 2) for kind in ("weight", "bias")
    }


def test_network_whose_norms_have_no_parameters_is_refused():
    with pytest.raises(ValueError, match=r"NormTuning\(\) matches no layer of UNet"):
        adapt(UNet(2, 1, 2, channels=(4, 8), strides=(2,)), NormTuning())


def test_statistics_of_a_trained_batch_norm_move_and_those_of_a_frozen_one_do_not():
    net = adapt(batch_norm_unet(), NormTuning())
    before = copy.deepcopy(net.state_dict())
    trained(net)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert {"model.0.adn.N.running_mean", "model.0.adn.N.running_var", "model.0.adn.N.weight"} <= moved
    assert moved <= adaptation_of(net).changing
    assert not any(name.startswith("model.2.") for name in moved)


def test_statistics_travel_in_the_file_swap_merge_and_step_aside(tmp_path):
    images = torch.randn(2, 1, 16, 16)
    fresh, base = batch_norm_unet().eval(), batch_norm_unet().eval()(images)
    net = trained(adapt(batch_norm_unet(), NormTuning()))
    first, expected = save_adapter(net, tmp_path / "first.safetensors"), net(images)
    assert not torch.equal(expected, base)

    with disable_adapter(net):
        assert torch.equal(net(images), base)
    assert torch.equal(net(images), expected)
    assert torch.equal(merge(net)(images), expected)
    trained(net)
    assert torch.equal(load_adapter(net, first)(images), expected)
    assert torch.equal(load_adapter(fresh, first)(images), expected)
