# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What changes from step to step: momentum and temperature of the teacher, weight decay, the frozen last layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DistillationSchedule", "cosine", "linear"]


def cosine(start: float, end: float, step: Tensor, steps: int) -> Tensor:
    r"""Go from start to end along half a cosine: :math:`e + (s - e)(1 + \cos(\pi i / n)) / 2`.

    Args:
        start: value at step 0.
        end: value at step n and later.
        step: i, a scalar tensor.
        steps: n.

    Returns:
        A scalar in float64.

    Example:
        >>> cosine(0.0, 1.0, torch.tensor(5), 10)
        tensor(0.5000, dtype=torch.float64)
    """
    share = (step.double() / max(steps, 1)).clamp(0, 1)
    return end + (start - end) * (1 + torch.cos(math.pi * share)) / 2


def linear(start: float, end: float, step: Tensor, steps: int) -> Tensor:
    """Go from start to end in equal steps and stay there; the last of ``steps`` values is the end, as in DINO's code.

    Args:
        start: value at step 0.
        end: value at step ``steps - 1`` and later.
        step: a scalar tensor.
        steps: number of values.

    Returns:
        A scalar in float64; ``end`` at once if there are no steps.

    Example:
        >>> linear(0.0, 1.0, torch.tensor(2), 5)
        tensor(0.5000, dtype=torch.float64)
    """
    if steps < 2:
        return torch.full_like(step, end, dtype=torch.float64)
    return start + (end - start) * (step.double() / (steps - 1)).clamp(0, 1)


@dataclass(frozen=True)
class DistillationSchedule:
    """Schedules of the teacher and of the head; the defaults are those of the released ESSA configuration (DINOv2).

    All count optimizer steps. The released run warms the temperature up in 30 of 300 epochs: a tenth.

    Attributes:
        steps: of the whole run.
        steps_per_epoch: in which the prototypes stay as they are, once at the beginning.
        momentum: of the teacher's average at the beginning; along a cosine to 1.
        temperature: of the teacher at the beginning and after its warm-up.
        warmup: share of the run in which the temperature rises, from 0 to 1.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> schedule = DistillationSchedule(steps=100, steps_per_epoch=10)
        >>> float(schedule.teacher_momentum(torch.tensor(0))), float(schedule.teacher_momentum(torch.tensor(100)))
        (0.994, 1.0)
        >>> bool(schedule.prototypes_learn(torch.tensor(9))), bool(schedule.prototypes_learn(torch.tensor(10)))
        (False, True)
    """

    steps: int
    steps_per_epoch: int = 0
    momentum: float = 0.994
    temperature: tuple[float, float] = (0.04, 0.07)
    warmup: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.steps_per_epoch:
            raise ValueError(f"expected one step or more, got {self.steps}, and {self.steps_per_epoch} in an epoch")
        if not 0 <= self.momentum <= 1 or not 0 <= self.warmup <= 1:
            raise ValueError(f"expected momentum and warmup from 0 to 1, got {self.momentum} and {self.warmup}")
        if len(self.temperature) != 2 or min(self.temperature) <= 0:
            raise ValueError(f"expected two temperatures above 0, got {self.temperature}")

    @property
    def warmup_steps(self) -> int:
        """Number of steps in which the teacher's temperature rises."""
        return int(self.warmup * self.steps)

    def teacher_momentum(self, step: Tensor) -> Tensor:
        """Return the share of the teacher that stays in this step."""
        return cosine(self.momentum, 1.0, step, self.steps)

    def teacher_temperature(self, step: Tensor) -> Tensor:
        """Return the temperature of the teacher's targets in this step."""
        return linear(*self.temperature, step, self.warmup_steps)

    def prototypes_learn(self, step: Tensor) -> Tensor:
        """Tell whether the prototypes learn in this step; a boolean scalar.

        A run of a single epoch would never train them: there they learn from the start.
        """
        frozen = self.steps_per_epoch if self.steps_per_epoch < self.steps else 0
        return step >= frozen
