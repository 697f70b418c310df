# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What lean training leaves on a module comes off without a trace, and never hides the plain values."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn as nn

from monai_essa.anatomy.lean_marks import (
    LeanForward,
    check_not_lean,
    check_still_frozen,
    plain_state,
    store_frozen,
    take_lean_off,
)


def doubled(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return 2 * type(layer).forward(layer, x)


def test_a_forward_pass_is_put_on_and_taken_off():
    layer = nn.Linear(3, 2)
    x, before = torch.rand(1, 3), dict(vars(layer))
    plain = layer(x)
    LeanForward(doubled, layer).put_on()
    assert torch.equal(layer(x), 2 * plain)
    take_lean_off(layer)
    assert torch.equal(layer(x), plain) and vars(layer).keys() == before.keys()


def test_a_copy_runs_its_own_weights():
    layer = nn.Linear(3, 2)
    LeanForward(doubled, layer).put_on()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
        with torch.no_grad():
            twin.weight.zero_()
            twin.bias.fill_(1)
        assert torch.equal(twin(torch.rand(1, 3)), torch.full((1, 2), 2.0))


def test_a_users_own_forward_stays():
    layer = nn.Linear(3, 2)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    take_lean_off(layer)
    assert torch.equal(layer(torch.ones(1, 3)), torch.ones(1, 3))


def test_stored_weights_come_back_bit_by_bit():
    net = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)).requires_grad_(False)
    net[1].weight.requires_grad_(True)
    before = copy.deepcopy(net.state_dict())
    for layer in net:
        store_frozen(layer, torch.bfloat16)
    assert (net[0].weight.dtype, net[1].weight.dtype) == (torch.bfloat16, torch.float32)
    assert all(torch.equal(plain_state(net)[name], before[name]) for name in before)
    take_lean_off(net)
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)


def test_storing_twice_keeps_the_first_value():
    layer = nn.Linear(7, 5).requires_grad_(False)
    before = layer.weight.clone()
    store_frozen(layer, torch.bfloat16)
    store_frozen(layer, torch.bfloat16)
    take_lean_off(layer)
    assert torch.equal(layer.weight, before)


def test_a_state_dict_that_is_loaded_meanwhile_is_what_comes_back():
    net, new = nn.Sequential(nn.Linear(7, 5)).requires_grad_(False), nn.Sequential(nn.Linear(7, 5))
    store_frozen(net[0], torch.bfloat16)
    net.load_state_dict(new.state_dict())
    assert net[0].weight.dtype == torch.bfloat16 and torch.equal(plain_state(net)["0.weight"], new[0].weight)
    take_lean_off(net)
    assert torch.equal(net[0].weight, new[0].weight)


def test_its_own_stored_weights_loaded_again_are_no_new_value():
    net = nn.Sequential(nn.Linear(7, 5)).requires_grad_(False)
    before = net[0].weight.clone()
    store_frozen(net[0], torch.bfloat16)
    net.load_state_dict(copy.deepcopy(net.state_dict()))
    take_lean_off(net)
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_conversion_to_another_format_reaches_the_exact_value(dtype):
    net = nn.Sequential(nn.Linear(7, 5, bias=False), nn.Linear(5, 3)).requires_grad_(False)
    before = {name: value.to(dtype) for name, value in net.state_dict().items()}
    store_frozen(net[0], torch.bfloat16)
    twin = copy.deepcopy(net).to(dtype)
    assert all(torch.equal(plain_state(twin)[name], value) for name, value in before.items())
    take_lean_off(twin)
    assert {value.dtype for value in twin.state_dict().values()} == {dtype}
    assert all(torch.equal(twin.state_dict()[name], value) for name, value in before.items())
    assert "_apply" not in vars(twin[0]) and net[0].weight.dtype == torch.bfloat16


def test_a_move_to_another_device_leaves_the_weight_stored():
    layer = nn.Linear(7, 5).requires_grad_(False)
    store_frozen(layer, torch.bfloat16)
    assert layer.to("meta").weight.dtype == torch.bfloat16


def test_a_state_dict_that_is_loaded_meanwhile_keeps_the_format_of_the_network():
    net, new = nn.Sequential(nn.Linear(7, 5)).double().requires_grad_(False), nn.Sequential(nn.Linear(7, 5))
    store_frozen(net[0], torch.bfloat16)
    net.load_state_dict(new.state_dict())
    take_lean_off(net)
    assert torch.equal(net[0].weight, new[0].weight.double())


def test_a_stored_weight_may_not_learn():
    layer = nn.Linear(7, 5).requires_grad_(False)
    store_frozen(layer, torch.bfloat16)
    check_still_frozen(layer)
    layer.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"^[^\n]*call lean again after what learns was changed$"):
        check_still_frozen(layer)
    take_lean_off(layer)
    check_still_frozen(layer)


@pytest.mark.parametrize(
    "mark", [lambda layer: store_frozen(layer, torch.bfloat16), lambda layer: LeanForward(doubled, layer).put_on()]
)
def test_a_lean_part_is_found_and_a_plain_network_passes(mark):
    net = nn.Sequential(nn.Linear(3, 2)).requires_grad_(False)
    check_not_lean(net, "adapt")
    mark(net[0])
    with pytest.raises(
        ValueError, match=r"^Sequential is lean, and lean comes after adapt; call lean\(network, off=True"
    ):
        check_not_lean(net, "adapt")
    take_lean_off(net)
    check_not_lean(net, "adapt")
