# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the shared teacher saves, counted: DINOv2 with APLA against DINOv2 of all parameters with a copied teacher."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import ViT

from monai_essa.adapters.adaptation import adapt
from monai_essa.anatomy import keep_grid
from monai_essa.cost.meter import StepCost, step_cost
from monai_essa.cost.record import use_recipe
from monai_essa.methods import APLA, AdaptationMethod, FullTuning
from monai_essa.pretext import DINOv2, DistillationSchedule


def cost(method: AdaptationMethod, recipe: str) -> StepCost:
    """Count a step of ViT-B with eight scans, two global crops of 96 cubed, four local ones of 48, 4,096 prototypes."""
    with torch.device("meta"):
        net = ViT(1, 96, 16)
    keep_grid(net, (6, 6, 6))
    objective = DINOv2(adapt(net.to_empty(device="cpu"), method), DistillationSchedule(steps=100, steps_per_epoch=10))
    crops = (torch.empty(8, 2, 1, 96, 96, 96, device="meta"), torch.empty(8, 4, 1, 48, 48, 48, device="meta"))
    return step_cost(use_recipe(objective, recipe, "bf16"), *crops, autocast=torch.bfloat16)


@pytest.mark.slow
def test_the_shared_teacher_keeps_its_promise_of_memory_and_arithmetic() -> None:
    """It counts a real-size network three times, since a tiny one has no large part that is frozen."""
    full, fast, small = cost(FullTuning(), "none"), cost(APLA(), "fast"), cost(APLA(), "small")
    assert fast.peak_bytes <= 0.55 * full.peak_bytes and fast.flops <= 0.80 * full.flops
    assert small.peak_bytes <= 0.40 * full.peak_bytes and small.flops <= 0.95 * full.flops
    assert fast.weight_bytes <= 0.40 * full.weight_bytes  # the copied teacher and fp32 against stored bf16
