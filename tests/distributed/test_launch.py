# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Processes that a function is started in: they join, one that is lost comes again, an error comes as its line."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from monai_essa.distributed.launch import in_processes
from monai_essa.distributed.processes import join_processes, leave_processes, process_rank

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


@pytest.mark.slow
def test_a_lost_process_is_started_again_with_the_other_one(tmp_path: Path) -> None:
    assert _launched(tmp_path, _lost_once) == ""
    assert [(tmp_path / f"total_{rank}").read_text(encoding="utf-8") for rank in (0, 1)] == ["3.0", "3.0"]


@pytest.mark.slow
def test_the_error_of_the_process_that_failed_first_is_told_in_a_line(tmp_path: Path) -> None:
    assert _launched(tmp_path, _refused) == "expected a crop of 32 voxels, got 16"
