# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A study whose trainings are parted among processes: the same results, and no process that stays behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_essa.engines import LossLog
from monai_essa.study.run import run_study
from monai_essa.study.stages import fitting_processes
from tests.forked import run_python
from tests.study.tiny import killed_at, tiny_request


def test_a_batch_is_parted_evenly(tmp_path: Path) -> None:
    (tmp_path / "stage.yaml").write_text("batch_size: 6\n", encoding="utf-8")
    assert [fitting_processes(tmp_path / "stage.yaml", most) for most in (1, 2, 3, 4, 5, 8)] == [1, 2, 3, 3, 3, 6]


def test_more_processes_than_the_machine_has_are_refused_in_a_line(hippocampus_tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"expected 1 to \d+ processes on this machine, .* got 1000"):
        run_study(tiny_request(hippocampus_tiny), tmp_path / "study", processes=1000)


@pytest.mark.skipif(sys.platform != "linux" or (os.cpu_count() or 1) < 2, reason="needs /proc and two cores")
@pytest.mark.slow
def test_a_stage_in_two_processes_learns_what_one_would_and_a_kill_leaves_none_behind(
    hippocampus_tiny: Path, tmp_path: Path
) -> None:
    request, folder = tiny_request(hippocampus_tiny, arms=("no_ssa",), batch_size=2), tmp_path / "study"
    base, log = folder / "stages" / "01-r1f1-base.done", folder / "logs" / "02-r1f1-ssa.log"
    begun = folder / "runs" / "02-r1f1-ssa" / "run.json"  # so that all have imported what they need
    killed_at(request, folder, lambda: begun.is_file() and len(list(_running(log))) >= 3, processes=2)
    until = time.monotonic() + 30
    while list(_running(log)):  # the two processes, and what started them
        assert time.monotonic() < until, "a process stays behind"
        time.sleep(0.1)

    stage = base.with_suffix(".yaml").read_text(encoding="utf-8").replace(f"{folder}/runs", f"{tmp_path}/alone")
    (tmp_path / "stage.yaml").write_text(stage, encoding="utf-8")
    run_python("-m", "monai.bundle", "run", "--args_file", str(tmp_path / "stage.yaml"), check=True)
    logs = [LossLog(runs / "01-r1f1-base" / "losses.jsonl").rows() for runs in (folder / "runs", tmp_path / "alone")]
    parted, alone = ([row["loss"] for row in rows] for rows in logs)
    assert parted == pytest.approx(alone, abs=1e-5)


def _running(log: Path) -> Iterator[Path]:
    """Yield the processes that write into a log."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "fd" / "1").readlink() == log:
                yield process
        except OSError:  # it ended meanwhile, or is another user's
            continue
