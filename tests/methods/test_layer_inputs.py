# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A layer of ours takes every input that the layer of torch takes whose place it has, and answers for it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn as nn

from monai_essa.anatomy.blocks import Rows
from monai_essa.methods.apla import APLALinear
from monai_essa.methods.lora import LoRAConv, LoRALinear
from monai_essa.methods.ssf import SSFLayer

OURS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "apla": lambda linear: APLALinear(linear, torch.tensor([3, 0])),
    "lora": lambda linear: LoRALinear(linear, {"q": Rows("", 0, 2), "v": Rows("", 4, 6)}, rank=2, alpha=4),
    "ssf": SSFLayer,
}
INPUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "one token": lambda x: x[0, 0],
    "no batch": lambda x: x[0],
    "batch": lambda x: x,
    "five axes": lambda x: x[None, :, None],
    "no image": lambda x: x[:0],
    "no token": lambda x: x[:, :0],
    "not contiguous": lambda x: x.transpose(0, 1),
    "expanded": lambda x: x[:1, :1].expand(4, 3, -1),
}


def compared(plain: nn.Module, layer: nn.Module, x: torch.Tensor, autocast: bool) -> None:
    """Outputs and input gradients of a layer at its start are those of the plain one, in number format too."""
    inputs = [x.detach().requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        theirs, ours = plain(inputs[0]), layer(inputs[1])
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    tolerance = 1e-2 if theirs.dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    weight = torch.randn_like(theirs, dtype=torch.float32).to(theirs)
    gradients = [
        torch.autograd.grad((y * weight).sum(), each)[0] for y, each in zip((theirs, ours), inputs, strict=True)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("layer", OURS)
def test_a_linear_layer_takes_what_torchs_takes(layer, kind, bias, dtype, autocast):
    plain = nn.Linear(5, 6, bias=bias, dtype=dtype).requires_grad_(False)
    compared(plain, OURS[layer](copy.deepcopy(plain)), INPUTS[kind](torch.randn(2, 3, 5, dtype=dtype)), autocast)


@pytest.mark.parametrize("kind", INPUTS)
def test_learned_rows_get_the_gradient_that_torchs_layer_computes(kind):
    linear, x = nn.Linear(5, 6).double(), INPUTS[kind](torch.randn(2, 3, 5, dtype=torch.float64))
    layer = OURS["apla"](copy.deepcopy(linear).requires_grad_(False))
    for module in (linear, layer):
        module(x).square().sum().backward()
    torch.testing.assert_close(layer.rows.grad, linear.weight.grad[layer.columns])
    torch.testing.assert_close(layer.row_biases.grad, linear.bias.grad[layer.columns])


CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "2-D": lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "2-D, same": lambda: nn.Conv2d(3, 4, 3, padding="same", dilation=2, bias=False),
    "3-D": lambda: nn.Conv3d(3, 4, (3, 1, 3), padding=(1, 0, 1)),
}
IMAGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "one image": lambda x: x[0],
    "batch": lambda x: x,
    "no image": lambda x: x[:0],
    "not contiguous": lambda x: x.transpose(2, 3),
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("conv", CONVOLUTIONS)
@pytest.mark.parametrize("ours", [lambda conv: LoRAConv(conv, rank=2, alpha=4), SSFLayer], ids=["lora", "ssf"])
def test_a_convolution_takes_what_torchs_takes(ours, conv, kind, dtype, autocast):
    plain = CONVOLUTIONS[conv]().to(dtype).requires_grad_(False)
    axes = (7, 6, 5)[: plain.weight.dim() - 2]
    compared(plain, ours(copy.deepcopy(plain)), IMAGES[kind](torch.randn(2, 3, *axes, dtype=dtype)), autocast)


@pytest.mark.parametrize("layer", OURS)
def test_a_linear_layer_answers_for_its_size(layer):
    ours = OURS[layer](nn.Linear(5, 6))
    assert (ours.in_features, ours.out_features) == (5, 6)
    assert not isinstance(ours, nn.Linear)  # no other method takes it for a layer of the network's own


def test_a_convolution_answers_for_its_geometry():
    ours = LoRAConv(nn.Conv3d(3, 4, 3, stride=2, padding=1), rank=2, alpha=4)
    assert (ours.in_channels, ours.out_channels, ours.kernel_size, ours.stride) == (3, 4, (3, 3, 3), (2, 2, 2))
    assert type(ours.merged()) is type(ours.plain()) is nn.Conv3d and ours.plain().weight is ours.weight
