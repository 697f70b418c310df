# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A network comes back as it was: the same modules, attributes, hooks and modes."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from monai_essa.adapters.claims import on_trial, unchanged_on_error


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    net[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return net


def test_after_an_error_nothing_is_left_of_a_change():
    net = network()
    modules, attributes = list(net.modules()), [dict(vars(module)) for module in net.modules()]
    handle = net[1].register_forward_hook(lambda module, inputs, output: output)
    x = torch.rand(4, 3)
    before = net.eval()(x)
    with pytest.raises(ValueError, match="late"), unchanged_on_error(net):
        net[0].weight.requires_grad_(False)
        net[0].register_forward_hook(lambda module, inputs, output: output * 0)
        net.train().mark = "left behind"
        net[0].register_buffer("more", torch.zeros(1))
        net[0] = nn.Linear(3, 2)
        raise ValueError("late")
    assert list(net.modules()) == modules and torch.equal(net(x), before)
    assert net[0].weight.requires_grad and "more" not in net.state_dict() and not hasattr(net, "mark")
    assert [set(vars(module)) for module in net.modules()] == [set(names) for names in attributes]
    handle.remove()  # hooks that were there can still be taken off
    assert not net[1]._forward_hooks


def test_without_an_error_the_change_stays():
    net = network()
    with unchanged_on_error(net):
        net[0] = nn.Identity()
    assert isinstance(net[0], nn.Identity)


def test_a_trial_allocates_nothing_and_is_undone():
    net = network()
    net.tied = net[0]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with on_trial(net):
        assert net.tied.weight is net[0].weight and net[0].weight.is_meta
        net[0].huge = nn.Parameter(net[0].weight.new_empty(10**12, 10**3))
        assert net.state_dict()["0.huge"].shape == (10**12, 10**3)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())
    assert set(net.state_dict()) == set(state)
