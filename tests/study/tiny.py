# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The smallest study that trains, and ways to run it in processes that are killed."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_essa.planning.networks import Network
from monai_essa.study.run import run_study
from monai_essa.study.splits import SplitRequest
from monai_essa.study.stages import Timings
from monai_essa.study.terms.request import AdaptRequest, Preset, StudyRequest

__all__ = ["killed_after", "killed_at", "run_apart", "tiny_request"]

VIT = Network("tiny", "vit", {"hidden_size": 24, "mlp_dim": 48, "num_heads": 4, "num_layers": 12}, 4, 32)
TIMINGS = Timings(1.0, 0.1, 0.1, dict.fromkeys(("base", "ssa", "peft", "full", "scratch"), 0.1))


def tiny_request(
    scans: Path, arms: tuple[str, ...] = ("ssa", "no_ssa"), repeats: int = 1, **values: Any
) -> AdaptRequest:
    """A study of a fixed size: nothing of it depends on the clock."""
    small = {"img_size": [32, 32, 32], "batch_size": 1} | values
    preset = Preset(arms, steps=2, network=VIT, timings=TIMINGS, reason="a test")
    return AdaptRequest(
        scans, split=SplitRequest(label_count=2, repeats=repeats), study=StudyRequest(values=small, preset=preset)
    )


def run_apart(request: AdaptRequest, folder: Path, largest_file: int | None = None, processes: int = 1) -> int:
    """Run a study in a process of its own, in which no file may become larger, and return its exit code."""
    process = _started(request, folder, largest_file, processes)
    process.join()
    return process.exitcode


def killed_at(request: AdaptRequest, folder: Path, moment: Callable[[], bool], processes: int = 1) -> None:
    """Run a study in a process of its own and kill that at a moment; its children are left to themselves."""
    process = _started(request, folder, processes=processes)
    while not moment():
        assert process.is_alive(), "the study ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def killed_after(request: AdaptRequest, folder: Path, seconds: float) -> bool:
    """Run a study in a process of its own and kill that after some seconds; tell whether it still ran."""
    process = _started(request, folder)
    process.join(seconds)
    runs = process.is_alive()
    process.kill()
    process.join()
    return runs


def _started(request: AdaptRequest, folder: Path, largest_file: int | None = None, processes: int = 1) -> Any:
    process = multiprocessing.get_context("forkserver").Process(
        target=_main, args=(request, folder, largest_file, processes)
    )
    process.start()
    return process


def _main(request: AdaptRequest, folder: Path, largest_file: int | None, processes: int) -> None:
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    try:
        code = run_study(request, folder, processes=processes)
    except (OSError, RuntimeError, ValueError) as error:
        os.write(2, f"{error}\n".encode())
        code = 1
    os._exit(code)
