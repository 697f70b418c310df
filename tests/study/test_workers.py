# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Children of a study: what they return, how they fail, and that none outlives its parent."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from monai_essa.error_line import asks_for_room
from monai_essa.planning.study_plan import PlannedStage, StudyPlan
from monai_essa.study import workers
from monai_essa.study.workers import ChildError, failure_of, in_child, run_stages, seconds_of, stopped_by_signals

PLAN = StudyPlan({}, {}, [{"name": "ssa", "title": "SSA, then PEFT", "kind": "trained"}], [], [], {})


def _fail() -> None:
    raise ValueError("expected a number, got none\nand more")


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _beat(file: Path) -> None:
    while True:
        file.write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(0.02)


def _parent(file: Path) -> None:
    with stopped_by_signals():
        in_child(_beat, file)


def test_a_child_returns_what_its_function_returned() -> None:
    assert in_child(sum, [1, 2]) == 3


def test_the_error_of_a_child_is_its_first_line() -> None:
    with pytest.raises(ChildError, match="^expected a number, got none$"):
        in_child(_fail)


def test_a_child_that_was_killed_is_told_from_one_that_failed() -> None:
    with pytest.raises(ChildError, match="killed, as the system does when memory runs out"):
        in_child(_killed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_child_outlives_its_parent(number: int, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    parent = multiprocessing.get_context("forkserver").Process(target=_parent, args=(file,))
    parent.start()
    _until(lambda: file.is_file() and file.read_text(encoding="utf-8") != "")
    child = int(file.read_text(encoding="utf-8"))
    os.kill(parent.pid or 0, number)
    parent.join()
    _until(lambda: not _runs(child))


def test_a_failure_is_told_once_and_stops_only_what_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "stages").mkdir()
    monkeypatch.setattr(workers, "run_stage", lambda path: _fake(path, ran))
    stages = [_stage("base"), _stage("ssa", "base"), _stage("ssa-train", "ssa"), _stage("no-ssa-train", "base")]

    failures = run_stages(tmp_path, PLAN, stages)

    assert failures == ["ssa failed: loss is NaN", "ssa-train failed: it needs ssa, which failed"]
    assert seconds_of(tmp_path, stages[3]) is not None and failure_of(tmp_path, stages[3]) is None
    assert "loss is NaN" in capsys.readouterr().out
    assert "Traceback" in (tmp_path / "logs" / "ssa.log").read_text()
    assert run_stages(tmp_path, PLAN, stages) == failures
    assert ran.read_text().split() == ["base", "ssa", "no-ssa-train"], "each ran once"


def test_what_needed_a_stage_that_was_mended_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "stages").mkdir()
    monkeypatch.setattr(workers, "run_stage", lambda path: _fake(path, ran))
    stages = [_stage("ssa"), _stage("ssa-train", "ssa"), _stage("ssa-test", "ssa-train")]
    assert len(run_stages(tmp_path, PLAN, stages)) == 3
    (tmp_path / "stages" / "ssa.failed").unlink()
    monkeypatch.setattr(workers, "run_stage", lambda path: None)
    assert run_stages(tmp_path, PLAN, stages) == []


def test_a_full_disk_is_no_failure_of_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "stages").mkdir()
    monkeypatch.setattr(workers, "run_stage", lambda path: _write_on(ran, path, "/dev/full"))
    stages = [_stage("base"), _stage("ssa", "base")]
    with pytest.raises(RuntimeError, match=f"^{tmp_path}: No space left on device, .* the same command: it goes on"):
        with asks_for_room(tmp_path):
            run_stages(tmp_path, PLAN, stages)
    assert not list((tmp_path / "stages").iterdir()), "nothing is marked"
    monkeypatch.setattr(workers, "run_stage", lambda path: _write_on(ran, path, os.devnull))
    assert run_stages(tmp_path, PLAN, stages) == []
    assert ran.read_text(encoding="utf-8").split() == ["base", "base", "ssa"]


def test_a_run_that_finished_before_its_marker_was_written_is_not_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "base"
    folder.mkdir(parents=True)
    times = {"started": "2026-01-01T10:00:00+00:00", "finished": "2026-01-01T10:00:30+00:00"}
    (folder / "run.json").write_text(json.dumps({"status": "finished"} | times))
    (tmp_path / "stages").mkdir()

    assert run_stages(tmp_path, PLAN, [_stage("base")]) == []

    assert seconds_of(tmp_path, _stage("base")) == 30


def _stage(name: str, *needs: str) -> PlannedStage:
    return PlannedStage(name, "train", None, 1, 1, name, needs, 1.0)


def _fake(path: Path, ran: Path) -> None:
    with ran.open("a", encoding="utf-8") as file:
        file.write(f"{path.stem}\n")
    if path.stem == "ssa":
        raise RuntimeError("loss is NaN")


def _write_on(ran: Path, path: Path, device: str) -> None:
    with ran.open("a", encoding="utf-8") as file:
        file.write(f"{path.stem}\n")
    with open(device, "wb") as file:
        torch.save({"weight": torch.zeros(100_000)}, file)


def _until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _runs(process: int) -> bool:
    """Tell whether a process is there and no zombie, which waits for a parent that has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
