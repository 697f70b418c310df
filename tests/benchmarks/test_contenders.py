# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for who is compared: each trains what it says, and steps of ours give finite losses."""

from __future__ import annotations

import pytest
import torch

from benchmarks.contenders import COUNTED, STOCK, TwoGemmLinear, timed_contenders
from benchmarks.reference_work import REFERENCE_WORK
from benchmarks.scale import quick_scale

TINY = quick_scale().works[0]
PEFT = next(contender for contender in COUNTED if contender.name.startswith("peft"))


def learning(objective):
    return {name for name, parameter in objective.named_parameters() if parameter.requires_grad}


def test_stock_trains_everything_and_fair_all_that_takes_part():
    fair = next(contender for contender in COUNTED if "fair baseline" in contender.name).make(TINY)
    stock = STOCK.make(TINY)
    assert len(learning(stock)) == len(list(stock.parameters()))
    stock(torch.rand(1, 1, 96, 96, 96))["loss"].backward()
    unused = {name for name, parameter in stock.named_parameters() if parameter.grad is None}
    assert {name for name, parameter in fair.named_parameters() if not parameter.requires_grad} == unused


@pytest.mark.parametrize("work", REFERENCE_WORK, ids=lambda work: work.name)
def test_peft_trains_lora_on_every_qkv_of_the_encoder_and_the_decoder_where_ours_does(work):
    pytest.importorskip("peft")
    objective = PEFT.make(work)
    names = learning(objective)
    lora = {name for name in names if ".lora_" in name}
    blocks = 8 if work.name.startswith("Swin") else 12
    assert len(lora) == 2 * blocks
    assert not any("decoder" in name for name in lora)
    rest = names - lora
    assert not any(part in name for name in rest for part in (".vit.", "swinViT.", "encoder.blocks", "network.blocks"))
    assert bool(rest) != work.name.endswith("decoder frozen")


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("position", range(1, len(timed_contenders())), ids=lambda i: timed_contenders()[i].name)
def test_every_timed_contender_but_stock_trains_all_that_learns(position, dtype):
    pytest.importorskip("peft")
    contender = timed_contenders(dtype)[position]
    objective = contender.make(TINY)
    with torch.autocast("cpu", dtype=contender.autocast, enabled=dtype is not None):
        loss = objective(torch.rand(2, 1, 96, 96, 96))["loss"]
    loss.backward()
    gradients = [parameter.grad for parameter in objective.parameters() if parameter.requires_grad]
    assert gradients and all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_forms_of_the_same_method_train_as_much():
    sizes = {
        contender.name: sum(p.numel() for p in contender.make(TINY).parameters() if p.requires_grad)
        for contender in timed_contenders()
        if "peft" not in contender.name
    }
    assert sizes["partial W_O 25 %, two products and scatter"] == sizes["ours, APLA 25 %, fast"]
    assert (
        sizes["ours, APLA, fast"] == sizes["ours, APLA, small"] == sizes["ours, APLA, plain checkpoint of each block"]
    )


def test_the_two_product_form_is_what_its_row_says():
    two = next(contender for contender in timed_contenders() if "two products" in contender.name)
    assert sum(isinstance(module, TwoGemmLinear) for module in two.make(TINY).modules()) == 2


def test_plain_checkpointing_gives_the_gradients_of_the_selective_one():
    torch.manual_seed(0)
    image = torch.rand(2, 1, 96, 96, 96)
    gradients = []
    for name in ("ours, APLA, small", "ours, APLA, plain checkpoint of each block"):
        contender = next(contender for contender in timed_contenders() if contender.name == name)
        torch.manual_seed(1)
        objective = contender.make(TINY)
        torch.manual_seed(2)
        objective(image)["loss"].backward()
        gradients.append([parameter.grad for parameter in objective.parameters() if parameter.requires_grad])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-7)


def test_bf16_is_on_both_sides():
    contenders = timed_contenders(torch.bfloat16)
    assert {contender.autocast for contender in contenders} == {torch.bfloat16}
    small = next(contender for contender in contenders if contender.name == "ours, APLA, small bf16")
    assert small.make(TINY).encoder.blocks[0].mlp.linear1.weight.dtype == torch.bfloat16
    assert contenders[0].make(TINY).encoder.blocks[0].mlp.linear1.weight.dtype == torch.float32
