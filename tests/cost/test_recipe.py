# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A recipe by name is the lean training that it stands for."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import ViT

from monai_essa import adapt, lean
from monai_essa.cost.meter import step_cost
from monai_essa.cost.record import use_recipe
from monai_essa.methods import APLA
from monai_essa.pretext import MAE


def objective():
    return MAE(encoder=adapt(ViT(1, 48, 8, hidden_size=96, mlp_dim=384, num_layers=2, num_heads=4), APLA()))


@pytest.mark.parametrize(
    ("recipe", "precision", "options"),
    [
        ("none", "fp32", {"off": True}),
        ("fast", "fp32", {}),
        ("small", "fp32", {"recompute": "block"}),
        ("fast", "bf16", {"frozen_dtype": torch.bfloat16}),
        ("small", "bf16", {"recompute": "block", "frozen_dtype": torch.bfloat16, "residual_dtype": torch.bfloat16}),
        ("fast", "fp16", {"frozen_dtype": torch.float16}),
    ],
)
def test_a_name_stands_for_options(recipe, precision, options):
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    images = torch.empty(4, 1, 48, 48, 48, device="meta")
    ours = step_cost(use_recipe(objective(), recipe, precision), images, autocast=autocast)
    assert ours == step_cost(lean(objective(), **options), images, autocast=autocast)


def test_small_takes_less_memory_and_more_operations_than_fast_and_fast_less_than_none():
    images = torch.empty(8, 1, 48, 48, 48, device="meta")
    none, fast, small = (step_cost(use_recipe(objective(), name), images) for name in ("none", "fast", "small"))
    assert small.peak_bytes < fast.peak_bytes < none.peak_bytes
    assert fast.flops < small.flops


@pytest.mark.parametrize(
    ("recipe", "precision", "message"),
    [
        ("tiny", "fp32", "lean must be one of none, fast, small, got 'tiny'"),
        ("fast", "int8", "precision must be one of fp32, bf16, fp16, got 'int8'"),
    ],
)
def test_unknown_names_are_refused(recipe, precision, message):
    with pytest.raises(ValueError, match=message):
        use_recipe(objective(), recipe, precision)
