# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The schedules are those of the released configuration at five points, from its formulas."""

from __future__ import annotations

import math

import pytest
import torch

from monai_essa.pretext.distillation.schedules import DistillationSchedule, cosine

EPOCH, EPOCHS, WARM = 50, 300, 30
STEPS, WARM_STEPS = EPOCH * EPOCHS, EPOCH * WARM
RELEASED = DistillationSchedule(steps=STEPS, steps_per_epoch=EPOCH)


@pytest.mark.parametrize("step", [0, WARM_STEPS // 2, WARM_STEPS - 1, STEPS // 2, STEPS - 1])
def test_teacher_and_decay_follow_the_released_schedules(step: int):
    now = torch.tensor(step)
    temperature = 0.04 + 0.03 * step / (WARM_STEPS - 1) if step < WARM_STEPS else 0.07
    half = 0.5 * (1 + math.cos(math.pi * step / STEPS))
    assert float(RELEASED.teacher_temperature(now)) == pytest.approx(temperature, abs=1e-9)
    assert float(RELEASED.teacher_momentum(now)) == pytest.approx(1 + (0.994 - 1) * half, abs=1e-9)
    assert float(cosine(1e-5, 1e-4, now, STEPS)) == pytest.approx(1e-4 + (1e-5 - 1e-4) * half, abs=1e-12)


@pytest.mark.parametrize(("step", "learn"), [(0, False), (1, False), (EPOCH - 1, False), (EPOCH, True), (STEPS, True)])
def test_the_prototypes_stay_in_the_first_epoch(step: int, learn: bool):
    assert bool(RELEASED.prototypes_learn(torch.tensor(step))) is learn


def test_a_run_of_one_epoch_trains_the_prototypes():
    assert bool(DistillationSchedule(steps=10, steps_per_epoch=10).prototypes_learn(torch.tensor(0)))


def test_without_a_warm_up_the_temperature_is_the_last():
    schedule = DistillationSchedule(steps=5, warmup=0.0)
    assert float(schedule.teacher_temperature(torch.tensor(0))) == 0.07


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "expected one step or more"),
        ({"steps": 5, "momentum": 1.1}, "expected momentum and warmup"),
        ({"steps": 5, "temperature": (0.0, 0.1)}, "expected two temperatures above 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DistillationSchedule(**wrong)
