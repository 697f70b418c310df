# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The processes that MONAI Label starts for its tasks: none outlives its server, and one trains at a time."""

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

_SERVER = "MONAI_ESSA_LABEL_SERVER"  # environment variable: the server's process id, for the processes that it starts
_TASK_MODULE = "monailabel.interfaces.utils.app"
_METHODS = ("train", "scoring", "batch_infer")
_PR_SET_PDEATHSIG = 1
_logger = logging.getLogger(__name__)


def mark_server() -> None:
    """Mark this process as the server of those that it starts from now on."""
    os.environ[_SERVER] = str(os.getpid())


def end_with_server() -> None:
    """End this process when the server that started it ends in any way; without such a server, do nothing.

    On Linux the kernel ensures it; everywhere a thread checks once a second whether the parent is still the server.
    """
    server = os.environ.get(_SERVER, "")
    main = getattr(sys.modules["__main__"], "__spec__", None)
    if not server.isdecimal() or main is None or main.name != _TASK_MODULE:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if not _is_child_of(int(server)):  # the server ended before the line above
        os._exit(1)
    threading.Thread(target=_watch, args=(int(server),), name="server watch", daemon=True).start()


def end_tasks_with_server() -> None:
    """Stop running and waiting tasks when the server's lifespan ends; to be called within it.

    Without this, a server that was interrupted would wait for its training, unreachable, and then start the next one.
    """
    lifespan = asyncio.current_task()
    if lifespan is not None:
        lifespan.add_done_callback(lambda _: _stop_all())


@contextmanager
def one_training(runs: Path) -> Iterator[None]:
    """Hold a lock within the block, so that no other process trains in a folder of runs; it ends with the process.

    Args:
        runs: the folder, which is made if missing; ``training.pid`` in it holds the process id.

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
    """Return the running task, or else the first waiting one; None if there is neither.

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
    parent = psutil.Process().parent()  # None once it has ended, even if another process has its number now
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
