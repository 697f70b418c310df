# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""An exponential moving average of the tensors that learn, which is validated and handed over in their place."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from monai.engines import Evaluator

from monai_essa.outside import Number
from monai_essa.pretext.distillation.teacher import AveragedTensors

__all__ = ["UseAverage", "WeightAverage"]

_MOMENTUM = Number(0, 0.999999)  # at 1 the average would stay at the start for ever


class WeightAverage(nn.Module):
    r"""Average the tensors that learn in a network over the steps of its training.

    After optimizer step t, counted from 0, with momentum m:

    .. math::
        \bar\theta \leftarrow m_t \bar\theta + (1 - m_t) \theta, \quad m_t = \min\left(m, \frac{1 + t}{10 + t}\right)

    as in TensorFlow's ``ExponentialMovingAverage``: the lower momentum of the first steps lets the average leave the
    start, which a decoder without weights begins at. Only what learns is kept a second time, in buffers, so that a
    checkpoint has both. Running statistics of norms that learn are the network's own.

    Args:
        network: adapted; it is not kept.
        momentum: m, from 0 to below 1.

    Raises:
        ValueError: if the momentum is out of its range.

    Example:
        >>> network = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(network, momentum=0.5)
        >>> with torch.no_grad():
        ...     _ = network.weight.fill_(1.0), average.tensors.tensors()["weight"].fill_(0.0)
        >>> average.follow(network)
        >>> round(average.tensors.tensors()["weight"].item(), 6)  # the first step has momentum 1 / 10
        0.9
    """

    steps: torch.Tensor

    def __init__(self, network: nn.Module, momentum: float) -> None:
        super().__init__()
        self.momentum = float(_MOMENTUM.check(momentum, "ema"))
        self.tensors = AveragedTensors(network)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def follow(self, network: nn.Module) -> None:
        """Move the average towards the network, once after each step of the optimizer."""
        warming = (1.0 + self.steps) / (10.0 + self.steps)
        self.tensors.follow(network, warming.clamp(max=self.momentum))
        self.steps += 1

    @torch.no_grad()
    def exchange(self, network: nn.Module) -> None:
        """Put the average into the network and keep what was there; a second call undoes it, to the last bit."""
        own = dict(network.named_parameters())
        for name, average in self.tensors.tensors().items():
            kept = own[name].detach().clone()
            own[name].copy_(average)
            average.copy_(kept)


class UseAverage:
    """Handler of the trainer that has the average validated, and leaves it in the network when the training ends.

    While the evaluator runs, the network holds the average: its metrics, and the best checkpoint that it saves, are of
    the average. Between two validations the network is what the optimizer trains. Attach it before the handlers that
    restore the best epoch and write results.

    Args:
        objective: a :class:`~monai_essa.engines.Supervised`; without ``ema`` it has no average, and nothing happens.
        evaluator: the engine that validates the network.

    Example:
        >>> from monai_essa.engines import Supervised
        >>> UseAverage(Supervised(nn.Linear(1, 1), nn.MSELoss(), ema=0.9), evaluator=None).objective.average.momentum
        0.9
    """

    def __init__(self, objective: nn.Module, evaluator: Evaluator) -> None:
        self.objective: Any = objective
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer and to the evaluator, if the objective keeps an average."""
        if self.objective.average is None:
            return
        self.evaluator.add_event_handler(Events.STARTED, self._exchange)
        self.evaluator.add_event_handler(Events.COMPLETED, self._exchange)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Copy the average into the network."""
        self.objective.average.tensors.copy_to(self.objective.network, "")

    def _exchange(self, _: Engine) -> None:
        self.objective.average.exchange(self.objective.network)
