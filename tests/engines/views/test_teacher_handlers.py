# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The decay of a step follows the released schedule by the iteration alone, and groups without decay have none."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn as nn
from ignite.engine import Engine

from monai_essa.engines import parameter_groups
from monai_essa.engines.views import WeightDecaySchedule

STEPS = 20


@pytest.mark.parametrize("iteration", [1, 6, 11, 16, 20])
def test_the_decay_is_the_released_one(iteration: int):
    optimizer = torch.optim.AdamW(parameter_groups(nn.Linear(2, 2), lr=1.0, weight_decay=1e-5))
    seen = []
    engine = Engine(lambda engine, batch: seen.append([group["weight_decay"] for group in optimizer.param_groups]))
    WeightDecaySchedule(optimizer, total_steps=STEPS).attach(engine)
    engine.run(range(STEPS), max_epochs=1)
    expected = 1e-4 + (1e-5 - 1e-4) * 0.5 * (1 + math.cos(math.pi * (iteration - 1) / STEPS))
    assert seen[iteration - 1] == [pytest.approx(expected, abs=1e-12), 0.0]


def test_a_decay_below_zero_is_refused():
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match="weight decay of 0 or more"):
        WeightDecaySchedule(optimizer, start=-1.0)
