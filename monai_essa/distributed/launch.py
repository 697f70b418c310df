# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Start a function in several processes of this machine, as ``torchrun`` starts a command."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from monai_essa.distributed.processes import is_about_lost_process
from monai_essa.error_line import one_line
from monai_essa.outside import printable

__all__ = ["end_with_parent", "in_processes"]

_RESTARTS = 1  # a lost process is rare, and an error that comes again is not waited for three times
_GRACE = 15  # seconds that processes have to save their state


def in_processes(function: Callable[..., Any], arguments: tuple[Any, ...], count: int) -> None:
    """Call a function in each of several processes, which may join by ``join_processes``.

    If one of them fails or is lost, all are ended and started once more. They end with this process, however it ends.

    Args:
        function: of a module, which the processes import.
        arguments: of the function.
        count: of processes.

    Raises:
        RuntimeError: if a process failed in the second start too: the first line of what it said.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=f"monai_essa_{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=_RESTARTS,
        start_method="spawn",  # the store of the rendezvous has a thread here, beside which a fork may never run
        shutdown_timeout=_GRACE,
    )
    threads = max(1, torch.get_num_threads() // count)
    with tempfile.TemporaryDirectory() as said:
        try:
            elastic_launch(config, _process)(function, arguments, threads, Path(said))
        except ChildFailedError as error:
            raise RuntimeError(_first_line(Path(said)) or error.get_first_failure()[1].message) from error


def end_with_parent() -> None:
    """Let this process, which another one has started, end as soon as that one does, however it ends."""
    threading.Thread(target=_wait_for_parent, name="parent watch", daemon=True).start()


def _process(function: Callable[..., Any], arguments: tuple[Any, ...], threads: int, said: Path) -> None:
    """Run in a process: it ends with the one that started it, and leaves the line of its error in a file."""
    end_with_parent()
    torch.set_num_threads(threads)
    try:
        function(*arguments)
    except Exception as error:
        (said / f"{os.environ['TORCHELASTIC_RESTART_COUNT']}_{os.environ['RANK']}").write_text(one_line(error), "utf-8")
        raise


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _first_line(said: Path) -> str | None:
    """Return what a process said of its own error in the last start, rather than of the loss of another process."""
    lines = [file.read_text("utf-8").partition("\n")[0] for file in sorted(said.iterdir(), reverse=True)]
    own = [line for line in lines if not is_about_lost_process(line)]
    return next((printable(line) for line in (*own, *lines)), None)
