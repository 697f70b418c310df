# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Convolutions that do not learn: the same numbers, and nothing kept but the weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from monai_essa.efficiency.forwards import fits_frozen_convolution, frozen_convolution

LAYERS = {
    "3-D": lambda: nn.Conv3d(3, 4, 3, padding=1),
    "2-D without bias": lambda: nn.Conv2d(3, 4, 3, bias=False),
    "stride that leaves cells over": lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "dilation and groups": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
    "transposed": lambda: nn.ConvTranspose3d(3, 4, 2, stride=2),
    "transposed with output padding": lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
}


def case(name):
    layer = LAYERS[name]().double().requires_grad_(False)
    dims = layer.weight.dim() - 2
    x = torch.rand(2, layer.in_channels, *(8, 7, 6)[:dims], dtype=torch.float64, requires_grad=True)
    return layer, x


@pytest.mark.parametrize("name", LAYERS)
def test_equals_torchs_layer(name):
    layer, x = case(name)
    ours, theirs = frozen_convolution(layer, x), layer(x)
    assert torch.equal(ours, theirs)
    weight = torch.rand_like(theirs)
    (one,), (other,) = (torch.autograd.grad((y * weight).sum(), x) for y in (ours, theirs))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_gradcheck(name):
    layer, x = case(name)
    small = (
        x.detach()[:1, :, :3, :3].requires_grad_() if x.dim() == 4 else x.detach()[:1, :, :3, :3, :3].requires_grad_()
    )
    assert torch.autograd.gradcheck(lambda x: frozen_convolution(layer, x), small)


def test_the_input_is_not_kept():
    layer, x = case("3-D")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        frozen_convolution(layer, x)
    assert [tuple(tensor.shape) for tensor in kept] == [tuple(layer.weight.shape)]


def test_computes_in_the_format_of_autocast():
    layer = nn.Conv3d(2, 3, 3, padding=1).requires_grad_(False)
    x = torch.rand(1, 2, 6, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = frozen_convolution(layer, x), layer(x)
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs)
    ours.sum().backward()
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("unfrozen", ["weight", "bias"])
@pytest.mark.parametrize("name", [name for name in LAYERS if "without bias" not in name])
def test_a_layer_that_learns_since_gets_its_gradient(name, unfrozen):
    layer, x = case(name)
    layer.get_parameter(unfrozen).requires_grad_(True)
    ours, theirs = frozen_convolution(layer, x), layer(x)
    assert torch.equal(ours, theirs)
    weight = torch.rand_like(theirs)
    learning = [x, layer.get_parameter(unfrozen)]
    for one, other in zip(*(torch.autograd.grad((y * weight).sum(), learning) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


INPUTS = {
    "one image": lambda x: x[0],
    "no image": lambda x: x[:0],
    "not contiguous": lambda x: x.transpose(2, 3),
    "channels last": lambda x: x.to(
        memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d, copy=True
    ),
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_takes_every_input_that_torchs_layer_takes(name, kind, autocast):
    layer, x = case(name)  # in float64, which autocast leaves alone
    x = INPUTS[kind](x.detach()).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, theirs = frozen_convolution(layer, x), layer(x)
    assert ours.dtype == theirs.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    (one,), (other,) = (torch.autograd.grad(y.square().sum(), x) for y in (ours, theirs))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_an_output_size_reaches_a_transposed_convolution():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2).requires_grad_(False)
    x = torch.rand(1, 2, 4, 4)
    assert torch.equal(frozen_convolution(layer, x, [10, 10]), layer(x, [10, 10]))


def test_what_learns_or_pads_otherwise_is_left_alone():
    assert not fits_frozen_convolution(nn.Conv3d(1, 1, 1))
    assert not fits_frozen_convolution(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect").requires_grad_(False))
    assert not fits_frozen_convolution(nn.Conv2d(1, 1, 3, padding="same").requires_grad_(False))
    assert fits_frozen_convolution(nn.ConvTranspose2d(1, 1, 2).requires_grad_(False))
