# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Processes that a function is started in: they join, also again; a lost one comes again; an error is its line."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from monai_essa.distributed.launch import in_processes
from monai_essa.distributed.processes import join_processes, leave_processes, process_rank
from tests.distributed.torchrun import free_port, variables
from tests.forked import run_ranks

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


def _launched(tmp_path: Path, function: Any) -> str:
    """Start two processes from a process of its own, as a study does, and return what that said of an error."""
    process = multiprocessing.get_context("forkserver").Process(target=_launch, args=(tmp_path, function))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return (tmp_path / "said").read_text(encoding="utf-8")


def _launch(folder: Path, function: Any) -> None:
    try:
        in_processes(function, (folder,), 2)
        said = ""
    except RuntimeError as error:
        said = str(error)
    (folder / "said").write_text(said, encoding="utf-8")


def _lost_once(folder: Path) -> None:
    join_processes(timeout=30)
    started = folder / f"started_{process_rank()}"
    if process_rank() == 1 and not started.exists():
        started.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    total = torch.tensor(process_rank() + 1.0)
    dist.all_reduce(total)
    (folder / f"total_{process_rank()}").write_text(str(float(total)), encoding="utf-8")
    leave_processes()


def _refused(folder: Path) -> None:
    join_processes(timeout=30)
    if process_rank() == 1:
        raise ValueError("expected a crop of 32 voxels, got 16\nand a second line")
    dist.barrier()


def _three_runs(rank: int, port: int, folder: str) -> None:
    """The second process comes to each run while the first one has yet to let go of the network of the last one."""
    os.environ.update(variables(rank, port))
    for run in range(3):
        network = None
        join_processes(timeout=20)
        total = torch.tensor(rank + 1.0)
        dist.all_reduce(total)
        (Path(folder) / f"{run}_{rank}").write_text(str(float(total)), encoding="utf-8")
        network = DistributedDataParallel(torch.nn.Linear(1, 1))  # noqa: F841
        leave_processes()
        time.sleep(0.3 if rank == 0 else 0)


def test_processes_that_have_left_join_again_for_the_next_run(tmp_path: Path) -> None:
    run_ranks(_three_runs, free_port(), str(tmp_path))
    totals = [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()]
    assert totals == ["3.0"] * 6


@pytest.mark.slow
def test_a_lost_process_is_started_again_with_the_other_one(tmp_path: Path) -> None:
    assert _launched(tmp_path, _lost_once) == ""
    assert [(tmp_path / f"total_{rank}").read_text(encoding="utf-8") for rank in (0, 1)] == ["3.0", "3.0"]


@pytest.mark.slow
def test_the_error_of_the_process_that_failed_first_is_told_in_a_line(tmp_path: Path) -> None:
    assert _launched(tmp_path, _refused) == "expected a crop of 32 voxels, got 16"
