# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Stop a trainer that is asked to end: after a checkpoint, in one line, with the exit code of a terminated process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

__all__ = ["stops_on_sigterm"]

_logger = logging.getLogger(__name__)


@contextmanager
def stops_on_sigterm(trainer: Engine) -> Iterator[None]:
    """Let the first SIGTERM end the trainer after the iteration that it is in; a second one ends the process at once.

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


class _Request:
    """Whether the process was asked to end, and whether the trainer has been told."""

    def __init__(self) -> None:
        self.stopped = False
        self._asked = False
        self._process = os.getpid()

    def note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != self._process:  # a forked worker
            os.kill(os.getpid(), number)

    def stop_within_epoch(self, engine: Any) -> None:
        if self._asked and engine.state.iteration % engine.state.epoch_length != 0:
            self.stop(engine)

    def stop(self, engine: Any) -> None:
        if self._asked and engine.state.iteration < engine.state.max_epochs * engine.state.epoch_length:
            self.stopped = True
            engine.terminate(skip_completed=True)
