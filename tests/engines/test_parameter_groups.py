# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, ViT

from monai_essa import adapt
from monai_essa.cost import use_recipe
from monai_essa.engines import Supervised
from monai_essa.engines.parameters import parameter_groups
from monai_essa.methods import VPT, BitFit, LoRA

LR = 1.0e-3
DECAY = 0.1


class Objective(nn.Module):
    """An encoder with a token, a norm and a frozen layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4).requires_grad_(False))
        self.head = nn.Linear(4, 2)

    def head_parameters(self) -> list[nn.Parameter]:
        return [*self.head.parameters(), self.mask_token]


def rates(objective: nn.Module, **arguments: float) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    groups = parameter_groups(objective, LR, DECAY, **arguments)
    return {names[id(item)]: (group["lr"], group["weight_decay"]) for group in groups for item in group["params"]}


def test_weights_decay_and_biases_norms_and_tokens_do_not() -> None:
    decayed = {name for name, (_, decay) in rates(Objective()).items() if decay == DECAY}
    assert decayed == {"encoder.0.weight", "head.weight"}


def test_prompts_are_tokens_and_do_not_decay() -> None:
    network = adapt(ViT(1, 16, 8, 24, 48, 2, 4, spatial_dims=2), VPT(tokens=2), also_train=["norm.*"])
    assert {name for name, (_, decay) in rates(network).items() if decay == 0} == {
        "blocks.0.prompts",
        "blocks.1.prompts",
        "norm.weight",
        "norm.bias",
    }


def test_frozen_tensors_are_in_no_group_and_the_others_in_one() -> None:
    objective = Objective()
    trainable = [name for name, parameter in objective.named_parameters() if parameter.requires_grad]
    assert sorted(rates(objective)) == sorted(trainable)


def test_the_head_learns_at_its_own_rate() -> None:
    faster = {name for name, (rate, _) in rates(Objective(), head_lr_factor=10.0).items() if rate == 10 * LR}
    assert faster == {"head.weight", "head.bias", "mask_token"}


def test_an_optimizer_takes_the_groups() -> None:
    optimizer = torch.optim.AdamW(parameter_groups(Objective(), LR, DECAY, head_lr_factor=10.0))
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.0, 0.0, DECAY, DECAY]


def test_a_tensor_that_two_modules_share_is_in_one_group_once() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    assert sum(len(group["params"]) for group in parameter_groups(network, LR)) == 3


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no trainable tensor"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), LR)


def supervised(lean: str = "fast") -> Supervised:
    network = adapt(UNETR(1, 2, 16, 4, 24, 48, 4, spatial_dims=2), [LoRA(rank=2), BitFit()], ["(decoder|out).*"])
    return use_recipe(Supervised(network, nn.MSELoss()), lean)


# 12 blocks, decay 0.5: what follows the encoder learns at LR, the last block at half of it, the first at 1 / 4096.
LAYER_RATES = {
    "network.vit.patch_embedding.patch_embeddings.bias": LR / 8192,
    "network.vit.blocks.0.attn.qkv.lora_A.q": LR / 4096,
    "network.vit.blocks.0.mlp.linear1.bias": LR / 4096,
    "network.vit.blocks.6.norm1.bias": LR / 64,
    "network.vit.blocks.11.attn.qkv.lora_B.v": LR / 2,
    "network.vit.norm.bias": LR,
    "network.decoder5.transp_conv.conv.weight": LR,
    "network.out.conv.conv.bias": 10 * LR,
}


@pytest.mark.parametrize("lean", ["none", "small"])
def test_layers_learn_at_the_rates_of_the_table(lean: str) -> None:
    objective = supervised(lean)
    found = rates(objective, head_lr_factor=10.0, layer_decay=0.5)
    assert {name: found[name][0] for name in LAYER_RATES} == pytest.approx(LAYER_RATES)
    groups = parameter_groups(objective, LR, DECAY, 10.0, 0.5)
    trainable = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    assert sorted(id(item) for group in groups for item in group["params"]) == sorted(map(id, trainable))


def test_a_layer_decay_of_1_leaves_the_groups_as_they_were() -> None:
    objective = supervised()
    plain, decayed = (parameter_groups(objective, LR, DECAY, **values) for values in ({}, {"layer_decay": 1.0}))
    assert [(len(group["params"]), group["lr"]) for group in plain] == [(len(g["params"]), g["lr"]) for g in decayed]
    assert {group["lr"] for group in decayed} == {LR}


@pytest.mark.parametrize(
    ("value", "message"),
    [(0, "layer_decay: expected a number above 0"), (1.5, "from 0 to 1, got 1.5"), ("0.5", "got '0.5'")],
)
def test_a_layer_decay_out_of_range_is_refused(value, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameter_groups(Objective(), LR, layer_decay=value)
