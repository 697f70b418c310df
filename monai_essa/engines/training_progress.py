# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a person sees while a run trains: the share that learns, a bar, and how long it will take."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.utils.enums import CommonKeys as Keys

__all__ = ["TrainingProgress"]

logger = logging.getLogger(__name__)

_STEPS_TO_MEASURE = 5
_BAR = "{desc} [{n_fmt}/{total_fmt}] {percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}, {rate_fmt}]"


class TrainingProgress:
    """Handler of the trainer: logs a text at the start, shows a bar, and estimates the hours after five steps.

    The bar shows the loss and, on CUDA, the largest memory in use so far; tqdm adds the speed. It appears on a terminal
    only, so that a log file is not filled with it. The estimate counts training steps, not validation.

    Args:
        introduction: what to log first, for example ``str(summary(network))``, the trained share.

    Example:
        >>> from monai.engines import SupervisedTrainer
        >>> trainer = SupervisedTrainer(
        ...     device="cpu", max_epochs=1, train_data_loader=[0.5] * 8, network=None, optimizer=None,
        ...     loss_function=None, train_handlers=[TrainingProgress("eight steps")],
        ...     iteration_update=lambda engine, batch: {"loss": batch},
        ... )
        >>> trainer.run()
    """

    def __init__(self, introduction: str = "") -> None:
        self.introduction = introduction
        self._first = 0
        self._since = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI trainer; all but the first process of a distributed run stay silent."""
        if engine.state.rank != 0:  # type: ignore[attr-defined]
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._estimate)
        bar = ProgressBar(bar_format=_BAR, disable=None)
        bar.attach(engine, output_transform=_shown)

    def _start(self, _: Engine) -> None:
        if self.introduction:
            logger.info("%s", self.introduction)
        self._first = 0

    def _estimate(self, engine: Any) -> None:
        iteration = engine.state.iteration
        if self._first == 0:
            # The first step loads the first batch and compiles kernels: it is not measured.
            self._first, self._since = iteration, time.perf_counter()
            return
        left = engine.state.max_epochs * engine.state.epoch_length - iteration
        if iteration == self._first + _STEPS_TO_MEASURE and left > 0:
            seconds = (time.perf_counter() - self._since) / _STEPS_TO_MEASURE
            text = "%.2f s a step: about %.2g h for the %d steps left, without validation"
            logger.info(text, seconds, seconds * left / 3600, left)


def _shown(output: Any) -> dict[str, Any]:
    entries = output[0] if isinstance(output, list) else output
    shown = {"loss": float(entries[Keys.LOSS])}
    if torch.cuda.is_initialized():
        shown["GB"] = torch.cuda.max_memory_allocated() / 1e9
    return shown
