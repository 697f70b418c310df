# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The processes that MONAI Label starts for trainings and scorings: none outlives its server, one trains at a time."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from monailabel.utils.async_tasks import utils as background

from monai_essa.outside import shown

__all__ = ["end_tasks_with_server", "end_with_server", "mark_server", "one_training", "task_in_progress"]

_SERVER = "MONAI_ESSA_LABEL_SERVER"  # environment variable: process id of the server, for the processes that it starts
_TASK_MODULE = "monailabel.interfaces.utils.app"
_METHODS = ("train", "scoring", "batch_infer")
_PR_SET_PDEATHSIG = 1
_logger = logging.getLogger(__name__)


def mark_server() -> None:
    """Tell the processes that this one starts from now on that it is their server."""
    os.environ[_SERVER] = str(os.getpid())


def end_with_server() -> None:
    """Make this process end when the server that started it does, however that ends; elsewhere do nothing.

    On Linux the kernel sees to it; everywhere a thread looks once a second whether the parent is still the server.
    """
    server = os.environ.get(_SERVER, "")
    main = getattr(sys.modules["__main__"], "__spec__", None)
    if not server.isdecimal() or main is None or main.name != _TASK_MODULE:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if not _is_child_of(int(server)):  # it ended before the line above
        os._exit(1)
    threading.Thread(target=_watch, args=(int(server),), name="server watch", daemon=True).start()


def end_tasks_with_server() -> None:
    """Stop what runs and what waits when the server's lifespan ends; called within it.

    Without this, a server that was interrupted would wait for its training, unreachable, and then start the next one.
    """
    lifespan = asyncio.current_task()
    if lifespan is not None:
        lifespan.add_done_callback(lambda _: _stop_all())


@contextmanager
def one_training(runs: Path) -> Iterator[None]:
    """Within the block no other process trains in a folder of runs; the lock ends with the process.

    Args:
        runs: the folder; made if missing. ``training.pid`` in it holds the process id.

    Raises:
        RuntimeError: if another process trains there.
    """
    runs.mkdir(parents=True, exist_ok=True)
    pid = runs / "training.pid"
    lock = FileLock(runs / ".training.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        holder = pid.read_text(encoding="utf-8").strip() if pid.is_file() else "unknown"
        raise RuntimeError(
            f"{runs}: a training is running already, in process {shown(holder)}; wait for its end or stop it"
        ) from None
    try:
        pid.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        pid.unlink(missing_ok=True)
        lock.release()


def task_in_progress(method: str) -> dict[str, Any] | None:
    """Find the task that runs, or else the first that waits to; None without one.

    Args:
        method: ``"train"``, ``"scoring"`` or ``"batch_infer"``.
    """
    tasks = background.tasks(method)
    for status in ("RUNNING", "SUBMITTED"):
        for task in tasks:
            if task["status"] == status:
                return task
    return None


def _is_child_of(server: int) -> bool:
    parent = psutil.Process().parent()  # None once it ended, even if its number was given to another process
    return parent is not None and parent.pid == server


def _watch(server: int) -> None:
    while _is_child_of(server):
        time.sleep(1)
    os._exit(1)


def _stop_all() -> None:
    for method in _METHODS:
        executor = background.background_executors.pop(method, None)
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        for task in background.tasks(method):
            if task["status"] == "SUBMITTED":
                task["status"] = "STOPPED"
        try:
            background.stop_background_task(method)
        except psutil.NoSuchProcess:
            _logger.info("the %s task ended by itself", method)
