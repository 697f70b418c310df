# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""APLA against a literal transcription of its formula."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.nets import ViT
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from monai_essa import adapt
from monai_essa.methods.apla import APLA, APLALinear

COLUMNS = torch.tensor([4, 0, 2])


def layer_and_linear(bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[APLALinear, nn.Linear]:
    linear = nn.Linear(5, 6, bias=bias, dtype=dtype)
    layer = APLALinear(copy.deepcopy(linear).requires_grad_(False), COLUMNS)
    with torch.no_grad():
        layer.rows.add_(torch.randn_like(layer.rows))
        if layer.row_biases is not None:
            layer.row_biases.add_(torch.randn_like(layer.row_biases))
    return layer, linear


def transcription(layer: APLALinear, x: torch.Tensor) -> torch.Tensor:
    """y = x W_O + b (arXiv 2503.11335, section 3), column by column; the chosen columns are the learned ones."""
    columns = []
    for j in range(layer.weight.shape[0]):
        chosen = (layer.columns == j).nonzero()
        if len(chosen):
            column, bias = layer.rows[chosen[0, 0]], 0 if layer.row_biases is None else layer.row_biases[chosen[0, 0]]
        else:
            column, bias = layer.weight[j], 0 if layer.bias is None else layer.bias[j]
        columns.append((x * column).sum(-1) + bias)
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_equal_the_formula(bias):
    layer, _ = layer_and_linear(bias, torch.float64)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    inputs = [x, layer.rows, *([layer.row_biases] if bias else [])]
    ours = layer(x)
    expected = transcription(layer, x)
    torch.testing.assert_close(ours, expected)
    upstream = torch.randn_like(ours)
    for got, want in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(bias):
    layer, _ = layer_and_linear(bias, torch.float64)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)

    def call(x: torch.Tensor, rows: torch.Tensor, *row_biases: torch.Tensor) -> torch.Tensor:
        state = {"rows": rows} | ({"row_biases": row_biases[0]} if row_biases else {})
        return torch.func.functional_call(layer, state, (x,))

    assert torch.autograd.gradcheck(call, (x, layer.rows, *([layer.row_biases] if bias else [])))


def test_learned_rows_get_the_gradient_of_full_training():
    layer, linear = layer_and_linear()
    with torch.no_grad():
        linear.weight[COLUMNS], linear.bias[COLUMNS] = layer.rows, layer.row_biases
    x = torch.randn(7, 5)
    layer(x).square().sum().backward()
    linear(x).square().sum().backward()
    torch.testing.assert_close(layer.rows.grad, linear.weight.grad[COLUMNS])
    torch.testing.assert_close(layer.row_biases.grad, linear.bias.grad[COLUMNS])
    assert layer.weight.grad is None and layer.bias.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_equals_plain_linear_under_autocast(dtype):
    layer, _ = layer_and_linear()
    plain = layer.merged()
    x = torch.randn(7, 5)
    with torch.autocast("cpu", dtype=dtype):
        ours, theirs = layer(x), plain(x)
    assert ours.dtype == dtype and torch.equal(ours, theirs)
    ours.float().sum().backward()
    theirs.float().sum().backward()
    torch.testing.assert_close(layer.rows.grad, plain.weight.grad[COLUMNS], rtol=1e-2, atol=1e-2)
    assert layer.rows.grad.dtype == torch.float32


def test_two_forwards_before_one_backward_and_a_teacher_on_the_same_storage():
    layer, _ = layer_and_linear()
    teacher = copy.copy(layer)
    teacher._parameters = {**layer._parameters, "rows": nn.Parameter(layer.rows.detach() + 1)}
    frozen = layer.weight.clone()
    x = torch.randn(7, 5)
    first, second, target = layer(x), layer(x + 1), teacher(x)
    (first.sum() + second.sum() + 0 * target.sum()).backward()
    expected = torch.autograd.grad(transcription(layer, x).sum() + transcription(layer, x + 1).sum(), layer.rows)[0]
    torch.testing.assert_close(layer.rows.grad, expected)
    assert torch.equal(layer.weight, frozen)


def test_gradient_accumulation_adds_up():
    layer, _ = layer_and_linear()
    x = torch.randn(8, 5)
    for part in x.split(4):
        layer(part).square().sum().backward()
    whole = torch.autograd.grad(transcription(layer, x).square().sum(), layer.rows)[0]
    torch.testing.assert_close(layer.rows.grad, whole)


def test_selective_checkpointing_gives_the_same_gradient():
    layer, _ = layer_and_linear()
    x = torch.randn(8, 5, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        checkpoint(layer, x, use_reentrant=False).float().square().sum().backward()
        recomputed, layer.rows.grad = layer.rows.grad, None
        layer(x).float().square().sum().backward()
    assert torch.equal(recomputed, layer.rows.grad)


def test_forward_costs_one_plain_linear():
    linear = nn.Linear(64, 64).requires_grad_(False)
    layer = APLALinear(linear, torch.arange(16))
    x = torch.randn(32, 64)
    counts = []
    for module in (linear, layer):
        with FlopCounterMode(display=False) as counter:
            module(x)
        counts.append(counter.get_total_flops())
    assert counts[1] <= 1.03 * counts[0]


def test_backward_of_the_weight_costs_only_the_learned_rows():
    layer = APLALinear(nn.Linear(64, 64).requires_grad_(False), torch.arange(16))
    y = layer(torch.randn(32, 64))
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * 32 * 64 * 16


def test_columns_are_drawn_per_block_from_the_seed():
    def drawn(seed: int) -> list[list[int]]:
        net = adapt(ViT(1, 32, 16, 24, 48, 2, 4), APLA(columns=4, seed=seed))
        return [block.attn.out_proj.columns.tolist() for block in net.blocks]

    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(0)[0] != drawn(0)[1]


@pytest.mark.parametrize(("columns", "count"), [(1, 1), (24, 24), (1.0, 24), (0.25, 6), (0.001, 1)])
def test_count_of_columns(columns, count):
    net = adapt(ViT(1, 32, 16, 24, 48, 2, 4), APLA(columns=columns))
    assert net.blocks[0].attn.out_proj.rows.shape == (count, 24)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (25, "between 1 and 24, the width of 'blocks.0.attn.out_proj', got 25"),
        ({2: [0]}, "block 2; expected 0 to 1"),
        ({0: [24]}, "columns of block 0 must be in 0 to 23, got 24"),
        ({"0": [1], "blocks.0": [2]}, "name the block 'blocks.0' twice"),
    ],
)
def test_bad_columns_are_refused(columns, message):
    net = ViT(1, 32, 16, 24, 48, 2, 4)
    with pytest.raises(ValueError, match=message):
        adapt(net, APLA(columns=columns))
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (0, "a count from 1, .*, got 0$"),
        (-3, "got -3$"),
        (True, "got True$"),
        ("8", "got '8'$"),
        (0.0, "got 0.0$"),
        (1.5, r"a fraction in \(0, 1\] .*, got 1.5$"),
        (float("nan"), "got nan$"),
        ([1, 2], r"a mapping from blocks to indices, got \[1, 2\]$"),
        ({}, "got {}$"),
        ({0: []}, "columns of block 0: expected a list of 1 to"),
        ({0: 3}, "columns of block 0: expected a list .*, got 3$"),
        ({0: "12"}, "columns of block 0: expected a list .*, got '12'$"),
        ({0: [1, 1]}, r"columns of block 0: expected each index once, got \[1, 1\]$"),
        ({0: [-1]}, r"columns of block 0\[0\]: expected a whole number from 0"),
        ({0: [True]}, r"columns of block 0\[0\]: expected a whole number"),
        ({0: [1.5]}, r"columns of block 0\[0\]: expected a whole number"),
    ],
)
def test_columns_that_fit_no_network_are_refused_at_once(columns, message):
    with pytest.raises(ValueError, match=f"^APLA, [^\n]*{message}"):
        APLA(columns=columns)
    with pytest.raises(ValueError, match="^APLA, seed: expected a whole number"):
        APLA(seed=0.5)


def test_columns_of_yaml_and_json_are_as_good_as_those_of_python():
    ours = APLA(columns={0: range(2), "blocks.1": (4,)})
    same = [APLA(columns={"blocks.1": [4], "0": [0, 1]}), APLA(columns=json.loads(json.dumps(ours.columns)))]
    assert all(each == ours and hash(each) == hash(ours) for each in same)
    assert APLA(columns={0: [1, 0]}) != APLA(columns={0: [0, 1]})
    assert json.dumps(ours.columns) == '{"0": [0, 1], "blocks.1": [4]}'
    assert copy.deepcopy(ours) == ours == pickle.loads(pickle.dumps(ours))  # noqa: S301


def test_given_columns_leave_other_blocks_frozen():
    net = adapt(ViT(1, 32, 16, 24, 48, 2, 4), APLA(columns={"blocks.1": [7, 3]}))
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {
        "blocks.1.attn.out_proj.rows",
        "blocks.1.attn.out_proj.row_biases",
    }
    assert net.blocks[1].attn.out_proj.columns.tolist() == [7, 3]


@pytest.mark.parametrize("move", ["to", "deepcopy", "state"])
def test_indices_follow_the_layer(move):
    layer, _ = layer_and_linear()
    expected = layer(torch.ones(1, 5))
    if move == "to":
        other = copy.deepcopy(layer).to(torch.float64).to(torch.float32)
    elif move == "deepcopy":
        other = copy.deepcopy(layer)
    else:
        other = APLALinear(nn.Linear(5, 6), torch.tensor([1, 3, 5]))
        other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(torch.ones(1, 5)), expected)
    assert torch.equal(other.columns, COLUMNS)
    torch.testing.assert_close(F.linear(torch.ones(1, 5), other.merged().weight, other.merged().bias), expected)
