# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the trainer does for self-distillation: a weight decay that rises, and the hand-over of the teacher."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from torch.optim import Optimizer

from monai_essa.pretext.distillation.schedules import cosine

__all__ = ["TeacherHandOver", "WeightDecaySchedule"]


class WeightDecaySchedule:
    """Handler of the trainer that sets the weight decay of each step: from one value along a cosine to another.

    Groups without decay (biases, norms, tokens) stay without. The value is a function of the iteration alone, so a
    resumed run goes on alike.

    Args:
        optimizer: whose groups are set.
        start: decay of the first iteration; as in the released ESSA configuration.
        end: decay at the end.
        total_steps: iterations of the run.

    Raises:
        ValueError: if a decay is below 0.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> optimizer = torch.optim.AdamW([{"params": [layer.weight]}, {"params": [layer.bias], "weight_decay": 0.0}])
        >>> WeightDecaySchedule(optimizer, total_steps=10).set(5)
        >>> [round(group["weight_decay"], 9) for group in optimizer.param_groups]
        [5.5e-05, 0.0]
    """

    def __init__(self, optimizer: Optimizer, start: float = 1e-5, end: float = 1e-4, total_steps: int = 1) -> None:
        if min(start, end) < 0:
            raise ValueError(f"expected a weight decay of 0 or more, got {start} and {end}")
        self.start = start
        self.end = end
        self.total_steps = total_steps
        self._groups = [group for group in optimizer.param_groups if group["weight_decay"] > 0]

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._set)

    def set(self, step: int) -> None:
        """Set the decay of a step, counted from 0."""
        decay = float(cosine(self.start, self.end, torch.tensor(step), self.total_steps))
        for group in self._groups:
            group["weight_decay"] = decay

    def _set(self, engine: Any) -> None:
        self.set(engine.state.iteration - 1)


class TeacherHandOver:
    """Handler of the trainer that puts the teacher into the encoder when the training ends.

    It is the teacher's backbone that the released ESSA code hands over. Attach it before the handlers that write
    results. A checkpoint of the run is not affected: it was written before.

    Args:
        objective: an objective with ``hand_over``.

    Raises:
        TypeError: if the objective has no teacher.

    Example:
        >>> TeacherHandOver(nn.Identity())
        Traceback (most recent call last):
        TypeError: Identity has no teacher to hand over
    """

    def __init__(self, objective: nn.Module) -> None:
        if not callable(getattr(objective, "hand_over", None)):
            raise TypeError(f"{type(objective).__name__} has no teacher to hand over")
        self.objective = objective

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Hand over."""
        self.objective.hand_over()  # type: ignore[operator]
