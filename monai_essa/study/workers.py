# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Run the stages of a plan one after the other, each in a child process that ends with its parent.

Markers say what is done and what failed, so that a study that was killed goes on. The parent imports the libraries once
and forks, so that a child starts at once. It must not use torch itself: threads of its own and CUDA do not survive a
fork.
"""

from __future__ import annotations

import datetime
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from monai_essa.distributed.launch import end_with_parent, in_processes
from monai_essa.error_line import one_line, unwritten
from monai_essa.files import write_text_whole
from monai_essa.outside import printable, shown
from monai_essa.planning.study_plan import PlannedStage, StudyPlan
from monai_essa.study.stages import fitting_processes, run_share, run_stage

__all__ = [
    "ChildError",
    "failure_of",
    "in_child",
    "run_stages",
    "seconds_of",
    "stopped_by_signals",
    "supervised",
    "write_cost",
]

_POLL = 0.5  # seconds between two looks at a child
_GRACE = 20.0  # seconds that a child has to save its state
_TITLES = {"base": "pre-training of the base", "ssa": "SSA", "tpp": "TPP", "train": "training", "test": "test"}
_TITLES |= {"floor": "floor", "refit": "training", "trial": "trial of a rate", "trial_test": "score of the trial"}
_SCORED = ("test", "trial_test", "floor")  # kinds that train no network
_LONGEST = 500  # characters of a failure
_NEEDS = "it needs "  # the failure of a stage that did not run


def run_stages(folder: Path, plan: StudyPlan, stages: Sequence[PlannedStage], processes: int = 1) -> list[str]:
    """Run each stage that has not ended, in a child process, and mark how it ended.

    A stage whose marker is there is not run again; one that was killed goes on from its checkpoints. One that fails is
    reported in a line, and so is every stage that needs it; the others go on. A stage that cannot write, for want of
    space say, has not failed: it is not marked, and no other stage is begun.

    Args:
        folder: of the study.
        plan: of the study, for the titles of the arms.
        stages: of the plan.
        processes: among which each training is parted, with the same results; fewer where they do not part its batch.

    Returns:
        A line for each stage that failed, in this call or before.

    Raises:
        OSError: if a stage, or a marker, could not be written.
    """
    clock = _Clock(folder, plan, stages)
    failures = []
    for stage in stages:  # what they needed may have been mended
        if (failure_of(folder, stage) or "").startswith(_NEEDS):
            _marker(folder, stage, "failed").unlink()
    for number, stage in enumerate(stages, 1):
        if seconds_of(folder, stage) is None and failure_of(folder, stage) is None:
            show = partial(clock.show, number, stage)
            _run_stage(folder, stage, 1 if stage.kind in _SCORED else processes, show)
        reason = failure_of(folder, stage)
        if reason is not None:
            failures.append(f"{stage.name} failed: {reason}")
            clock.say(failures[-1])
    clock.end()
    return failures


def seconds_of(folder: Path, stage: PlannedStage) -> float | None:
    """Return the seconds that a stage took, None if it has not ended well."""
    path = _marker(folder, stage, "done")
    if not path.is_file():
        return None
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; delete it to run the stage again") from error


def failure_of(folder: Path, stage: PlannedStage) -> str | None:
    """Return why a stage failed, in a line; None if it did not."""
    path = _marker(folder, stage, "failed")
    if not path.is_file():
        return None
    return printable(path.read_text(encoding="utf-8", errors="replace").strip().partition("\n")[0][:_LONGEST])


def write_cost(folder: Path, plan: StudyPlan) -> Path:
    """Write cost.json: seconds and the peak of memory of each stage and, with what it starts from, of each arm.

    Args:
        folder: of the study.
        plan: its plan.

    Returns:
        The file.
    """
    rows = [_cost_row(folder, stage) for stage in plan.stages]
    by_name = {row["name"]: row for row in rows}
    needs = {stage.name: stage.needs for stage in plan.stages}
    arms: dict[str, dict[str, Any]] = {}
    for stage in plan.stages:
        counted = stage.labels is None and by_name[stage.name]["seconds"] is not None
        if stage.kind in ("train", "trial") and stage.arm is not None and counted:
            own = arms.setdefault(stage.arm, {"seconds": 0.0, "seconds_before": 0.0, "peak_bytes": None})
            own["seconds"] += by_name[stage.name]["seconds"]
            if stage.kind == "trial":
                continue
            own["seconds_before"] += sum(by_name[name]["seconds"] or 0.0 for name in needs[stage.name])
            peaks = [row["peak_bytes"] for row in (by_name[stage.name], *(by_name[name] for name in needs[stage.name]))]
            own["peak_bytes"] = max([own["peak_bytes"] or 0, *(peak or 0 for peak in peaks)]) or None
    path = folder / "cost.json"
    write_text_whole(path, json.dumps({"version": 1, "stages": rows, "arms": arms}, indent=1) + "\n")
    return path


class ChildError(RuntimeError):
    """What a child reported, in one line; the traceback is in its output."""


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, with this one's output.

    Args:
        function: of a module, since a process that is not forked imports it.
        arguments: of the function.

    Returns:
        What it returned.

    Raises:
        ChildError: if the function raised, or the process was killed.
        OSError: if it raised because the disk takes no more.
    """
    return supervised(function, arguments, None, lambda seconds: None)


def supervised(
    function: Callable[..., Any], arguments: tuple[Any, ...], log: Path | None, watch: Callable[[float], None]
) -> Any:
    """Call a function in a process of its own, and look at it twice a second.

    The process is stopped if an exception, such as that of an interrupt, leaves this function; it ends by itself when
    this process ends in any other way.

    Args:
        function: of a module.
        arguments: of the function.
        log: file that its output is added to; None: this process's output.
        watch: called with the seconds that have passed.

    Returns:
        What it returned.

    Raises:
        ChildError: if the function raised, or the process was killed.
        OSError: if it raised because the disk takes no more.
    """
    context = _context()
    receiving, sending = context.Pipe(duplex=False)
    child: Any = context.Process(target=_run, args=(sending, log, function, arguments))  # type: ignore[attr-defined]
    child.start()
    sending.close()
    begin = time.monotonic()
    try:
        while not receiving.poll(_POLL):
            watch(time.monotonic() - begin)
        succeeded, value = _received(receiving)
        child.join()
    finally:
        _stop(child)
    if succeeded is None:
        raise ChildError(_how_it_ended(child.exitcode))
    if not succeeded:
        raise value
    return value


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM end this process as an interrupt does, so that its child is stopped too."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Clock:
    """Shows which stage runs and how long the rest will take, on one line of a terminal or a line a stage in a log."""

    def __init__(self, folder: Path, plan: StudyPlan, stages: Sequence[PlannedStage]) -> None:
        self._titles = {arm["name"]: arm["title"] for arm in plan.arms}
        self._stages = stages
        self._folder = folder
        self._planned = self._taken = 0.0
        self._last: PlannedStage | None = None
        self._width = 0

    def show(self, number: int, stage: PlannedStage, seconds: float) -> None:
        """Show a stage that has run for some seconds."""
        first = self._last is not stage
        if first:
            self._count_last()
            self._last = stage
        on_terminal = sys.stdout.isatty()
        if not (on_terminal or first):
            return
        rest = sum(s.seconds for s in self._stages[number - 1 :] if self._is_open(s))
        left = max(0.0, rest * self._pace - seconds)
        place = f"repeat {stage.repeat}, fold {stage.fold}: " if stage.repeat else "on all labels: "
        line = f"[{number}/{len(self._stages)}] {place}{self._title(stage)}; about {_duration(left)} left"
        end, start = ("", "\r") if on_terminal else ("\n", "")
        tqdm.write(f"{start}{line:<{self._width}}", end=end)
        self._width = len(line) if on_terminal else 0

    def say(self, line: str) -> None:
        """Print a line of its own."""
        self.end()
        tqdm.write(line)

    def end(self) -> None:
        """Leave the line that is shown."""
        if self._width:
            tqdm.write("")
            self._width = 0

    @property
    def _pace(self) -> float:
        """Return how much slower than planned the stages of this call were."""
        return min(10.0, max(0.1, self._taken / self._planned)) if self._planned > 0 else 1.0

    def _count_last(self) -> None:
        if self._last is not None:
            self._taken += seconds_of(self._folder, self._last) or 0.0
            self._planned += self._last.seconds if seconds_of(self._folder, self._last) is not None else 0.0

    def _is_open(self, stage: PlannedStage) -> bool:
        return seconds_of(self._folder, stage) is None and failure_of(self._folder, stage) is None

    def _title(self, stage: PlannedStage) -> str:
        arm = printable(self._titles.get(stage.arm or "", stage.arm or ""))
        what = _TITLES.get(stage.kind, stage.kind)
        return f"{arm}, {what}" if arm else what


def _run_stage(folder: Path, stage: PlannedStage, processes: int, show: Callable[[float], None]) -> None:
    """Run a stage and write its marker."""
    lacking = [name for name in stage.needs if not (folder / "stages" / f"{name}.done").is_file()]
    if lacking:
        write_text_whole(_marker(folder, stage, "failed"), f"{_NEEDS}{lacking[0]}, which failed\n")
        return
    finished = _finished_before(folder, stage)
    if finished is None:
        show(0.0)
        begin = time.monotonic()
        try:
            supervised(
                _run_here,
                (folder / "stages" / f"{stage.name}.yaml", processes),
                folder / "logs" / f"{stage.name}.log",
                show,
            )
        except ChildError as error:
            write_text_whole(_marker(folder, stage, "failed"), f"{error}\n")
            return
        finished = time.monotonic() - begin
    write_text_whole(_marker(folder, stage, "done"), json.dumps({"seconds": round(finished, 2)}) + "\n")


def _run_here(path: Path, processes: int) -> None:
    """Run a stage in this process, or in as many as part its batch."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    count = 1 if processes == 1 else fitting_processes(path, processes)
    if count == 1:
        run_stage(path)
    else:
        in_processes(run_share, (path, count), count)


def _finished_before(folder: Path, stage: PlannedStage) -> float | None:
    """Return the seconds of a training that finished, but whose marker a kill has prevented."""
    record = folder / "runs" / stage.name / "run.json"
    if stage.kind in _SCORED[:2] or not record.is_file():
        return None
    try:
        content: Mapping[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if content["status"] != "finished":
            return None
        times = [datetime.datetime.fromisoformat(content[name]) for name in ("started", "finished")]
        return (times[1] - times[0]).total_seconds()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{record} is damaged ({shown(str(error))}); delete its folder to run the stage again"
        ) from error


def _marker(folder: Path, stage: PlannedStage, kind: str) -> Path:
    return folder / "stages" / f"{stage.name}.{kind}"


def _cost_row(folder: Path, stage: PlannedStage) -> dict[str, Any]:
    row: dict[str, Any] = {key: getattr(stage, key) for key in ("name", "kind", "arm", "repeat", "fold")}
    return row | {"seconds": seconds_of(folder, stage), "peak_bytes": _peak(folder / "runs" / stage.name / "cost.json")}


def _peak(path: Path) -> int | None:
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return int(record.get("measured_peak_bytes") or record["peak_bytes"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # of a run that was killed before its first step


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _context() -> BaseContext:
    return multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")


def _run(sending: Connection, log: Path | None, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run in the child: it is stopped by its parent, not by the keys that interrupt the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    # torch replaces a pool of threads that it had before the fork at the first call, which fails for one of several
    # threads that make this call at once, as those that fill a cache: it is made here, with the number as it is.
    torch.set_num_threads(torch.get_num_threads())
    if log is not None:
        _write_to(log)
    try:
        sending.send((True, function(*arguments)))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        sending.send((False, unwritten(error) or ChildError(one_line(error))))
        if log is not None:
            with suppress(OSError):  # on a full disk the log takes no more either
                traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()


def _write_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", 1, encoding="utf-8", closefd=False) for stream in (1, 2))


def _received(receiving: Connection) -> tuple[bool | None, Any]:
    try:
        return receiving.recv()
    except EOFError:
        return None, None


def _stop(child: Any) -> None:
    if child.is_alive():
        child.terminate()
        child.join(_GRACE)
    if child.is_alive():
        child.kill()
    child.join()


def _how_it_ended(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "the process was killed, as the system does when memory runs out; give a smaller batch_size or img_size"
    return f"the process ended with code {code}"
