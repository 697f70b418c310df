# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What each arm of a study costs, beside how well it did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from monai_essa.outside import Nullable, Number
from monai_essa.planning.study_plan import PlannedStage
from monai_essa.report.charts import figure_png
from monai_essa.report.html import ReportFigure, ReportSection
from monai_essa.report.study.figures import cost_figure
from monai_essa.report.study.folder import StudyFolder, read_json
from monai_essa.report.study.scores import ArmTable
from monai_essa.report.tables import ResultTable

__all__ = ["ArmCost", "arm_cost", "cost_section"]

_BYTES = Nullable(Number(0, 2**60, whole=True))


@dataclass(frozen=True)
class ArmCost:
    """The cost of an arm.

    Attributes:
        seconds: of all its training stages in one repeat, SSA with it, without the base; None if nothing was timed.
        peak_bytes: the largest peak of a training step, as cost.json of its runs has it; None if unknown.
        adapter_bytes: size of its adapter file; None if there is none.
    """

    seconds: float | None
    peak_bytes: int | None
    adapter_bytes: int | None


def cost_section(study: StudyFolder, tables: Mapping[str, ArmTable]) -> ReportSection:
    """Set the time and the memory of each arm beside its score.

    Args:
        study: the folder.
        tables: scores by arm.
    """
    costs = {arm: arm_cost(study, arm) for arm in study.titles}
    rows = [
        [
            study.title(arm),
            _minutes(cost.seconds),
            _gib(cost.peak_bytes),
            _megabytes(cost.adapter_bytes),
            _three(_score(study, tables, arm)),
        ]
        for arm, cost in costs.items()
    ]
    base = _base_seconds(study)
    shared = "" if base is None else f" The base that was made here took {_minutes(base)} minutes and is not counted."
    note = (
        f"Minutes: training of one repeat with all its folds, on the machine that ran it.{shared} Memory: the computed "
        "peak of a training step, or the measured one on a GPU. Adapter: the file."
    )
    headers = ["arm", "minutes", "memory, GiB", "adapter, MB", "mean score"]
    tabled = [ResultTable("Cost by arm", headers, rows, note)] if rows else []
    return ReportSection(
        "Cost against accuracy",
        [] if rows else ["No arm was planned, so there is nothing to compare."],
        tabled,
        list(_figure(study, costs, tables)),
    )


def arm_cost(study: StudyFolder, arm: str) -> ArmCost:
    """Add up the training stages that an arm needs, per repeat.

    Args:
        study: the folder.
        arm: name of the arm.
    """
    by_name = {stage.name: stage for stage in study.stages}
    trainings = study.of("train", arm)
    needed = {stage.name: stage for training in trainings for stage in _with_needs(training, by_name)}
    timed = {stage.repeat: 0.0 for stage in trainings}
    known = False
    for stage in needed.values():
        seconds = study.seconds(stage) if stage.kind != "base" else None
        if seconds is not None and stage.repeat in timed:
            timed[stage.repeat] += seconds
            known = True
    peaks = [
        peak for stage in needed.values() if stage.kind != "base" and (peak := _peak(study.run(stage))) is not None
    ]
    files = [study.run(stage) / "adapter.safetensors" for stage in trainings]
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return ArmCost(
        seconds=math.fsum(timed.values()) / len(timed) if known else None,
        peak_bytes=max(peaks, default=None),
        adapter_bytes=max(sizes, default=None),
    )


def _with_needs(stage: PlannedStage, by_name: Mapping[str, PlannedStage]) -> Iterator[PlannedStage]:
    """Yield a stage and all before it, each once."""
    waiting, seen = [stage.name], set()
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in seen:
            seen.add(name)
            waiting += by_name[name].needs
            yield by_name[name]


def _peak(run: Path) -> int | None:
    path = run / "cost.json"
    if not path.is_file():
        return None
    record = read_json(path)
    found = record.get("measured_peak_bytes", record.get("peak_bytes"))
    checked: int | None = _BYTES.check(found, f"{path}, the peak")
    return checked


def _base_seconds(study: StudyFolder) -> float | None:
    seconds = [taken for stage in study.of("base") if (taken := study.seconds(stage)) is not None]
    return math.fsum(seconds) or None


def _figure(study: StudyFolder, costs: Mapping[str, ArmCost], tables: Mapping[str, ArmTable]) -> Iterator[ReportFigure]:
    points = {
        study.title(arm): (cost.seconds / 60, score)
        for arm, cost in costs.items()
        if cost.seconds is not None and not math.isnan(score := _score(study, tables, arm))
    }
    table = next(iter(tables.values()), None)
    if not points or table is None:
        return
    said = "; ".join(f"{title} {score:.3f} in {minutes:.1f} minutes" for title, (minutes, score) in points.items())
    yield ReportFigure(
        figure_png(cost_figure(points, table.metric)),
        "Mean score of each arm over the minutes of its training, without the base.",
        f"Score against cost: {said}.",
    )


def _score(study: StudyFolder, tables: Mapping[str, ArmTable], arm: str) -> float:
    row = next((row for row in study.arms if row["name"] == arm and row["mean"] is not None), None)
    if row is not None:
        return float(row["mean"])
    values = [value for value in tables[arm].means().values() if not math.isnan(value)] if arm in tables else []
    return math.fsum(values) / len(values) if values else math.nan


def _three(score: float) -> str:
    return "-" if math.isnan(score) else f"{score:.3f}"


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"


def _gib(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**30:.2f}"


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.2f}"
