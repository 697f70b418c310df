# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The first training steps of a bundle, timed, with nothing written."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

__all__ = ["Trial", "try_steps"]

_STEPS = 2


@dataclass(frozen=True)
class Trial:
    """What the steps showed.

    Attributes:
        loss: of the last step.
        step_seconds: forward, backward and optimizer, the median of all steps but the first, which fills memory pools.
        batch_seconds: to load a batch, likewise.
        steps: that the run will take.
        device: where the steps ran.
        memory_bytes: the largest use of CUDA memory; None on another device.
    """

    loss: float
    step_seconds: float
    batch_seconds: float
    steps: int
    device: torch.device
    memory_bytes: int | None


def try_steps(parser: ConfigParser, most: int = _STEPS, cached: bool = False) -> Trial:
    """Take the first steps of a bundle's trainer without its handlers, since those write.

    Args:
        parser: of a training config with MONAI's usual ids; the handlers are switched off in it.
        most: how many steps are taken; fewer if the run has fewer.
        cached: fill the cache first; by default no cache is made.

    Returns:
        The measurement.

    Raises:
        ValueError: if the config has no ``train#trainer``.
    """
    if "train#trainer" not in parser:
        raise ValueError("the config has no 'train#trainer'; --dry-run is for training configs")
    parser["train#trainer#train_handlers"] = []
    for key, value in {"cache_rate": float(cached), "cache_dir": None}.items():
        if key in parser:
            parser[key] = value
    parser.parse(reset=True)
    trainer: Any = parser.get_parsed_content("train#trainer")
    steps = trainer.state.max_epochs * trainer.state.epoch_length
    if trainer.state.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.state.device)
    trainer.logger.disabled = True  # it would print an error twice before the one line of the command
    watch = _Stopwatch(trainer, min(steps, most))
    trainer.run()

    on_cuda = trainer.state.device.type == "cuda"
    output = trainer.state.output[0] if isinstance(trainer.state.output, list) else trainer.state.output
    return Trial(
        loss=float(output["loss"]),
        step_seconds=_typical(watch.steps),
        batch_seconds=_typical(watch.batches),
        steps=steps,
        device=trainer.state.device,
        memory_bytes=torch.cuda.max_memory_allocated(trainer.state.device) if on_cuda else None,
    )


class _Stopwatch:
    """Times the batches and steps of an engine, and ends it after some."""

    def __init__(self, engine: Engine, steps: int) -> None:
        self.batches: list[float] = []
        self.steps: list[float] = []
        self._most = steps
        self._since = 0.0
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._batch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _start(self, _: Engine) -> None:
        self._since = time.perf_counter()

    def _batch(self, _: Engine) -> None:
        self.batches.append(time.perf_counter() - self._since)

    def _step(self, engine: Engine) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.steps.append(time.perf_counter() - self._since)
        if engine.state.iteration >= self._most:
            engine.terminate()


def _typical(seconds: list[float]) -> float:
    return statistics.median(seconds[1:] or seconds)
