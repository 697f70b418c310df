# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The cost of a step on fake tensors is what a real step costs, byte by byte."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, SwinUNETR, ViT

from monai_essa import adapt, lean, merge
from monai_essa.cost.meter import fused_adamw, step_cost
from monai_essa.cost.table import foreach_adamw
from monai_essa.engines import Supervised
from monai_essa.methods import APLA, FullTuning, HeadOnly, LoRA
from monai_essa.pretext import MAE, SimMIM
from tests.cost.allocator import allocated_peak

EVERYTHING_ELSE = (r"(?!vit\.|swinViT\.).*",)


def vit():
    return ViT(1, 48, 8, hidden_size=96, mlp_dim=384, num_layers=4, num_heads=4)


def segmentation(network, size=(64, 64, 64)):
    labels = torch.zeros(1, *size, dtype=torch.long)
    return Supervised(network, nn.CrossEntropyLoss()), (torch.rand(1, 1, *size), labels)


CASES = {
    "ViT, stock": lambda: (SimMIM(encoder=adapt(vit(), FullTuning())), (torch.rand(4, 1, 48, 48, 48),)),
    "ViT, lean": lambda: (
        lean(SimMIM(encoder=adapt(vit(), APLA())), recompute="block"),
        (torch.rand(4, 1, 48, 48, 48),),
    ),
    "ViT, MAE": lambda: (lean(MAE(encoder=adapt(vit(), LoRA()))), (torch.rand(4, 1, 48, 48, 48),)),
    "UNETR, stock": lambda: segmentation(
        adapt(UNETR(1, 3, 64, 16, 96, 384, 4), FullTuning(), also_train=EVERYTHING_ELSE)
    ),
    "UNETR, lean": lambda: segmentation(lean(adapt(UNETR(1, 3, 64, 16, 96, 384, 4), APLA()), recompute="block")),
    "SwinUNETR in 2-D, stock": lambda: segmentation(
        adapt(SwinUNETR(1, 3, feature_size=24, spatial_dims=2), FullTuning(), also_train=EVERYTHING_ELSE), (192, 192)
    ),
    "SwinUNETR, lean": lambda: segmentation(
        lean(adapt(SwinUNETR(1, 3, feature_size=12), APLA()), recompute="block"), (64, 64, 32)
    ),
}


# Convolutions in three dimensions take long on one thread; those of a decoder are here in two, and in planning/.
FULL = ("UNETR, stock", "UNETR, lean", "SwinUNETR, lean")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.full] * (name in FULL)) for name in CASES])
def test_the_peak_is_the_allocators(name):
    """Within 3 %: what is left are the small temporaries within operations."""
    objective, batch = CASES[name]()
    cost = step_cost(objective, *batch)
    optimizer = fused_adamw([parameter for parameter in objective.train().parameters() if parameter.requires_grad])

    def step():
        objective(*batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    present = cost.weight_bytes + cost.optimizer_bytes + sum(tensor.nbytes for tensor in batch)
    step()
    assert cost.peak_bytes == pytest.approx(present + allocated_peak(step), rel=0.03)


def test_parts_are_what_they_say():
    objective = SimMIM(encoder=adapt(vit(), APLA()))
    cost = step_cost(objective, torch.empty(2, 1, 48, 48, 48, device="meta"))
    trained = sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
    assert (cost.trainable, cost.frozen) == (trained, sum(p.numel() for p in objective.parameters()) - trained)
    assert cost.gradient_bytes == 4 * trained
    counters = 4 * sum(parameter.requires_grad for parameter in objective.parameters())
    assert cost.optimizer_bytes == 8 * trained + counters
    assert cost.peak_bytes > cost.weight_bytes + cost.optimizer_bytes + cost.saved_bytes
    assert cost.flops == cost.forward_flops + cost.backward_flops


def test_it_grows_with_the_batch_and_repeats_itself():
    objective = SimMIM(encoder=adapt(vit(), APLA()))
    one, two, again = (step_cost(objective, torch.empty(b, 1, 48, 48, 48, device="meta")) for b in (2, 4, 2))
    assert one == again
    assert two.forward_flops == 2 * one.forward_flops
    assert two.saved_bytes == pytest.approx(2 * one.saved_bytes, rel=0.01)


def test_the_objective_is_left_as_it_is():
    objective = SimMIM(encoder=adapt(vit(), APLA())).eval()
    before, modes = copy.deepcopy(objective.state_dict()), [module.training for module in objective.modules()]
    step_cost(objective, torch.rand(2, 1, 48, 48, 48))
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
    assert modes == [module.training for module in objective.modules()]
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_foreach_needs_temporaries_and_stored_weights_half_of_the_bytes():
    net = ViT(1, 16, 8, hidden_size=96, mlp_dim=384, num_layers=4, num_heads=4)
    objective, batch = SimMIM(encoder=adapt(net, FullTuning()), mask_unit=8), torch.rand(1, 1, 16, 16, 16)
    assert step_cost(objective, batch, optimizer=foreach_adamw).peak_bytes > step_cost(objective, batch).peak_bytes
    stored = lean(SimMIM(encoder=adapt(merge(net), APLA()), mask_unit=8), frozen_dtype=torch.bfloat16)
    half = step_cost(stored, batch, autocast=torch.bfloat16)
    full = step_cost(lean(stored), batch)
    assert half.weight_bytes < full.weight_bytes and half.peak_bytes < full.peak_bytes


def test_an_objective_in_which_nothing_learns_is_refused():
    with pytest.raises(ValueError, match="nothing learns"):
        step_cost(Supervised(adapt(vit(), HeadOnly()), nn.CrossEntropyLoss()), torch.rand(1))
