# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The page of a study: the verdict first, then what it rests on. It repeats the words of verdict.json and adds none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_essa.evaluation.baselines.rivals import read_rivals
from monai_essa.report.charts import figure_png
from monai_essa.report.html import ReportContent, ReportFigure, ReportSection, default_page, write_report
from monai_essa.report.study.costs import cost_section
from monai_essa.report.study.details import again, detail_sections, versions
from monai_essa.report.study.efficiency import efficiency_section
from monai_essa.report.study.figures import ArmPoints, arms_figure
from monai_essa.report.study.folder import StudyFolder, read_study
from monai_essa.report.study.results import case_section, picture_section, probability_section
from monai_essa.report.study.scores import ArmTable, CaseNames, arm_table
from monai_essa.report.tables import ResultTable

__all__ = ["study_content", "write_study_report"]


@dataclass(frozen=True, eq=False)
class _Read:
    """A study with its tables."""

    study: StudyFolder
    tables: Mapping[str, ArmTable]
    names: CaseNames

    @property
    def chosen(self) -> str | None:
        """Return the arm that the details are about: the exported one, or the first that was tested."""
        exported = (self.study.exported or {}).get("name")
        return exported if exported in self.tables else next(iter(self.tables), None)


def write_study_report(folder: Path, show_ids: bool = False, out: Path | None = None) -> Path:
    """Write ``report.html`` of a study, finished or not, as one file that opens offline and prints.

    Args:
        folder: of the study, with its plan.yaml.
        show_ids: call cases by the names of their files; by default by digests.
        out: the HTML file; default: ``report.html`` in the folder, or ``report_with_ids.html`` with the names of files,
            so that what is exported never holds them.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if the folder has no plan.yaml.
        ImportError: if the extra [report] is not installed.
        ValueError: if a file of the study is damaged.
    """
    return write_report(out or folder / default_page(show_ids), study_content(folder, show_ids))


def study_content(folder: Path, show_ids: bool = False) -> ReportContent:
    """Compose the report; what is missing is said in its place.

    Args:
        folder: of the study.
        show_ids: as for :func:`write_study_report`.

    Raises:
        FileNotFoundError: if the folder has no plan.yaml.
        ValueError: if a file of the study is damaged.
    """
    study = read_study(folder)
    read = _Read(study, dict(_tables(study)), CaseNames.of_datalist(folder / "datalist.json", show_ids))
    arm = read.chosen
    table = None if arm is None else read.tables[arm]
    sections = [_verdict(read), efficiency_section(study), cost_section(study, read.tables)]
    if arm is not None and table is not None:
        sections.append(case_section(study, read.tables, arm, read.names))
        show = probability_section if study.classification else picture_section
        sections.append(show(study, table, arm, read.names))
    sections += detail_sections(study, arm)
    task = study.protocol.get("task", "study")
    return ReportContent(
        f"Which way to adapt: {task}", [part for part in sections if part], again(study), versions(study)
    )


def _verdict(read: _Read) -> ReportSection:
    study = read.study
    said = study.sentence or "There is no verdict yet."
    first = " ".join([*_provisional(study), said])
    paragraphs = [first, *_context(study), *_unfinished(study, read.tables)]
    tables = [*_arms_table(read), *_comparisons_table(study)]
    return ReportSection("Verdict", paragraphs, tables, list(_arms_figure(read)))


def _provisional(study: StudyFolder) -> Iterator[str]:
    reason = study.protocol.get("provisional")
    if reason and "provisional" not in study.sentence:  # which may say it with each comparison
        yield f"Provisional: {reason}."


def _context(study: StudyFolder) -> Iterator[str]:
    protocol = study.protocol
    question = f"What is estimated: {protocol['estimand']}." if protocol.get("estimand") else ""
    sentences = protocol.get("sentences")
    told = [str(each) for each in sentences] if isinstance(sentences, list) else []
    if facts := [fact for fact in (question, _counts(protocol), *told) if fact]:
        yield " ".join(facts)


def _counts(protocol: Mapping[str, Any]) -> str:
    parts = [
        (protocol.get("labels"), "labelled patients to train on"),
        (protocol.get("patients"), "tested"),
        (protocol.get("unlabeled"), "scans for SSA"),
        (protocol.get("repeats"), "repeat" if protocol.get("repeats") == 1 else "repeats"),
    ]
    told = ", ".join(f"{value} {what}" for value, what in parts if value is not None)
    unit = f" Unit: {protocol['unit']}." if protocol.get("unit") else ""
    return f"{told[0].upper()}{told[1:]}.{unit}" if told else unit.strip()


def _unfinished(study: StudyFolder, tables: Mapping[str, ArmTable]) -> Iterator[str]:
    """Say which arms failed or were dropped, with the reason, and which are not tested yet."""
    lines = []
    for arm in study.titles:
        failed = next(filter(None, (study.failure(stage) for stage in study.stages if stage.arm == arm)), "")
        if failed:
            lines.append(f"{study.title(arm)} (failed: {failed})")
        elif arm not in tables:
            lines.append(f"{study.title(arm)} (not tested yet)")
    if lines:
        yield f"Not in full: {', '.join(lines)}."
    reasons: dict[str, list[str]] = {}
    for each in study.dropped:
        reasons.setdefault(each["reason"], []).append(each["title"] or each["name"])
    if reasons:
        told = [f"{reason} ({', '.join(names)})" for reason, names in reasons.items()]
        yield f"Dropped: {'; '.join(told)}."


def _arms_table(read: _Read) -> Iterator[ResultTable]:
    if read.tables:
        rows = [_arm_row(read.study, arm, read) for arm in read.tables]
        yield ResultTable("All arms", ["arm", "mean", "95 % interval", "patients", "repeats"], rows, _note(read))


def _comparisons_table(study: StudyFolder) -> Iterator[ResultTable]:
    rows = [
        [
            ", ".join(filter(None, [f"{study.title(row['a'])} against {study.title(row['b'])}", row["metric"]])),
            _signed(row["estimate"]),
            "-" if row["low"] is None or row["high"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}",
            "-" if row["decidable"] is None else f"{row['decidable']:.4f}",
            row["word"] or row["reason"] or row["question"] or "-",
        ]
        for row in study.comparisons
    ]
    note = (
        "Difference: above 0 if the first is better, patient by patient. Decidable: the smallest difference that this "
        "study could decide. What was not among the primary comparisons has no word."
    )
    headers = ["comparison", "difference", "interval", "decidable", "verdict"]
    if rows:
        yield ResultTable("All comparisons", headers, rows, note)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _arm_row(study: StudyFolder, arm: str, read: _Read) -> list[str]:
    table = read.tables[arm]
    scored = next((row for row in study.arms if row["name"] == arm), None)
    title = study.title(arm) + (" (not blinded)" if scored is not None and scored["blinded"] is False else "")
    repeats = str(max(len(values) for values in table.cases.values()))
    if scored is None or scored["mean"] is None:
        values = list(table.by_patient(read.names).values())
        mean = f"{math.fsum(values) / len(values):.3f}" if values else "-"
        return [title, mean, "-", str(len(values)), repeats]
    interval = "-" if scored["low"] is None else f"{scored['low']:.3f} to {scored['high']:.3f}"
    return [title, f"{scored['mean']:.3f}", interval, str(scored["n"]), repeats]


def _note(read: _Read) -> str:
    metric = read.study.protocol.get("metric") or next(iter(read.tables.values())).metric
    direction = "higher" if next(iter(read.tables.values())).higher_is_better else "lower"
    return (
        f"{metric[0].upper()}{metric[1:]}; {direction} is better. These intervals are of each arm alone; whether two "
        "arms differ is said by the comparisons, patient by patient."
    )


def _arms_figure(read: _Read) -> Iterator[ReportFigure]:
    if not read.tables:
        return
    rows = {row["name"]: row for row in read.study.arms}
    points = []
    for arm, table in read.tables.items():
        patients = list(table.by_patient(read.names).values())
        row = rows.get(arm, {})
        mean = row.get("mean")
        points.append(
            ArmPoints(
                read.study.title(arm),
                patients,
                (math.fsum(patients) / len(patients) if patients else math.nan) if mean is None else mean,
                *(math.nan if row.get(end) is None else row[end] for end in ("low", "high")),
            )
        )
    first = next(iter(read.tables.values()))
    said = "; ".join(f"{point.title} {point.mean:.3f}" for point in points)
    yield ReportFigure(
        figure_png(arms_figure(points, first.metric, first.higher_is_better)),
        "A dot is a tested patient (mean over the repeats), a bar the 95 % interval of the mean, the number the mean.",
        f"Scores of each arm by patient. Means: {said}.",
    )


def _tables(study: StudyFolder) -> Iterator[tuple[str, ArmTable]]:
    """Read the scores of each arm in the order of the plan, then of each rival; an arm with no table is left out."""
    listed = dict.fromkeys([*study.titles, *(stage.arm for stage in study.stages if stage.arm)])
    for arm in listed:
        stages = [*study.of("test", arm), *study.of("floor", arm)]
        folders = [study.run(stage) for stage in stages if not study.failure(stage)]
        table = arm_table(list(dict.fromkeys(folders)))
        if table is not None:
            yield arm, table
    for name in read_rivals(study.path / "rivals"):
        table = arm_table([study.path / "rivals" / name])
        if table is not None:
            yield name, table
