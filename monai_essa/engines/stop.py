# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Trainers that cannot go on: asked to end, they save first; out of memory, they say what to set. Both in one line."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

from monai_essa.distributed.processes import any_process, in_several_processes

__all__ = ["says_what_is_smaller", "smaller_settings", "stops_on_sigterm"]

_logger = logging.getLogger(__name__)
_NO_MEMORY = ("out of memory", "can't allocate memory", "Unable to allocate")  # as CUDA, torch and NumPy say it
_LARGEST_STRIDE = 32  # of an encoder, SwinUNETR's


@contextmanager
def stops_on_sigterm(trainer: Engine) -> Iterator[None]:
    """Let the first SIGTERM end the trainer after the iteration that it is in; a second one ends the process at once.

    In a distributed run one process that is asked ends all of them, after the same iteration, and more signals change
    nothing: a scheduler and torchrun each send one, and torchrun kills what is not done after 30 seconds.

    A scheduler sends SIGTERM some seconds before it kills. :class:`~monai_essa.engines.RunCheckpoint` saves when a
    trainer is told to terminate, so that the same command then goes on with the next iteration. At the end of an epoch
    its validation is done first. Events of completion are not fired: a stopped run is not a finished one.

    Where signals cannot be caught, as in a thread, nothing is changed.

    Args:
        trainer: it runs within the context.

    Raises:
        SystemExit: with code 143, that of a process which SIGTERM has ended, after the trainer has stopped.

    Example:
        >>> engine = Engine(lambda engine, batch: os.kill(os.getpid(), signal.SIGTERM))
        >>> with stops_on_sigterm(engine):
        ...     _ = engine.run([0, 1, 2])
        Traceback (most recent call last):
        SystemExit: 143
        >>> engine.state.iteration
        1
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    request = _Request()
    earlier = signal.signal(signal.SIGTERM, request.note)
    try:
        with (
            trainer.add_event_handler(Events.ITERATION_COMPLETED, request.stop_within_epoch),
            trainer.add_event_handler(Events.EPOCH_COMPLETED, request.stop),
        ):
            yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
    if request.stopped:
        _logger.warning(
            "stopped by SIGTERM after iteration %d: the same command goes on from there", trainer.state.iteration
        )
        raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def says_what_is_smaller(trainer: Engine, settings: Mapping[str, Any]) -> Iterator[None]:
    """Turn the error of a trainer that ran out of memory into a line that names smaller settings.

    Args:
        trainer: it runs within the context.
        settings: as for :func:`smaller_settings`.

    Raises:
        RuntimeError: in the place of an error of CUDA, torch or NumPy about memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(said in str(error) for said in _NO_MEMORY):
            raise
        state = trainer.state
        raise RuntimeError(
            f"out of memory in iteration {state.iteration} on {getattr(state, 'device', 'cpu')}: "
            f"{smaller_settings(settings)}"
        ) from error


def smaller_settings(settings: Mapping[str, Any]) -> str:
    """Name what needs less memory than the settings of a run, with values.

    A side of ``img_size`` becomes the next smaller multiple of the largest power of two, up to 32, that divides it.

    Args:
        settings: ``lean``, ``batch_size`` and ``img_size``; a key that is not there is not named.

    Example:
        >>> smaller_settings({"lean": "fast", "batch_size": 2, "img_size": [96, 96, 64]})
        'set lean: small, and go on; or in another output_dir batch_size: 1, img_size: [64, 64, 32]'
    """
    batch, size = settings.get("batch_size", 1), list(settings.get("img_size", []))
    smaller = [side - math.gcd(side, _LARGEST_STRIDE) or side for side in size]
    lean = [] if settings.get("lean", "small") == "small" else ["set lean: small, and go on"]
    again = [f"batch_size: {batch // 2}"] if batch > 1 else []
    again += [f"img_size: {smaller}"] if smaller != size else []
    again = again or ([] if lean else ["a smaller network, by hidden_size or feature_size"])
    return "; or ".join([*lean, *([f"in another output_dir {', '.join(again)}"] if again else [])])


class _Request:
    """Whether the process was asked to end, and whether the trainer has been told."""

    def __init__(self) -> None:
        self.stopped = False
        self._asked = False
        self._process = os.getpid()

    def note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if not in_several_processes():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != self._process:  # a forked worker
            os.kill(os.getpid(), number)

    def stop_within_epoch(self, engine: Any) -> None:
        if engine.state.iteration % engine.state.epoch_length != 0:
            self.stop(engine)

    def stop(self, engine: Any) -> None:
        if any_process(self._asked) and engine.state.iteration < engine.state.max_epochs * engine.state.epoch_length:
            self.stopped = True
            engine.terminate(skip_completed=True)
