# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The page of a study: the verdict first, then what it rests on. It repeats the words of verdict.json and adds none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from monai_essa.data.lists.read import listed_patients, read_datalist, section_names
from monai_essa.evaluation.verdict import Comparison
from monai_essa.report.charts import figure_png
from monai_essa.report.html import ReportContent, ReportFigure, ReportSection, write_report
from monai_essa.report.study.costs import cost_section
from monai_essa.report.study.details import again, detail_sections, versions
from monai_essa.report.study.figures import ArmPoints, arms_figure
from monai_essa.report.study.folder import StudyFolder, read_study
from monai_essa.report.study.results import case_section, picture_section, probability_section
from monai_essa.report.study.scores import ArmTable, CaseNames, arm_table
from monai_essa.report.tables import ResultTable

__all__ = ["study_content", "verdict_sentences", "write_study_report"]

_NO_WORD = "No comparison has a verdict word. What follows describes what was measured."


@dataclass(frozen=True, eq=False)
class _Read:
    """A study with its tables."""

    study: StudyFolder
    tables: Mapping[str, ArmTable]
    names: CaseNames

    @property
    def chosen(self) -> str | None:
        """Return the arm that the details are about: the exported one, or the first that was tested."""
        exported = (self.study.exported or {}).get("arm")
        return exported if exported in self.tables else next(iter(self.tables), None)


def write_study_report(folder: Path, show_ids: bool = False, out: Path | None = None) -> Path:
    """Write ``report.html`` of a study, finished or not, as one file that opens offline and prints.

    Args:
        folder: of the study, with its plan.yaml.
        show_ids: call cases by the names of their files; by default by digests.
        out: the HTML file; default: ``report.html`` in the folder.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if the folder has no plan.yaml.
        ImportError: if the extra [report] is not installed.
        ValueError: if a file of the study is damaged.
    """
    return write_report(out or folder / "report.html", study_content(folder, show_ids))


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
    read = _Read(study, dict(_tables(study)), _names(folder, show_ids))
    arm = read.chosen
    table = None if arm is None else read.tables[arm]
    sections = [_verdict(read), cost_section(study, read.tables)]
    if arm is not None and table is not None:
        sections.append(case_section(study, read.tables, arm, read.names))
        show = probability_section if study.classification else picture_section
        sections.append(show(study, table, arm, read.names))
    sections += detail_sections(study, arm)
    task = study.protocol.get("task", "study")
    return ReportContent(
        f"Which way to adapt: {task}", [part for part in sections if part], again(study), versions(study)
    )


def verdict_sentences(study: StudyFolder) -> list[str]:
    """Return the comparisons of a verdict in words, as ``monai-essa compare`` prints them, with the arms' titles.

    Args:
        study: with or without a verdict.
    """
    known = {each.name for each in fields(Comparison)}
    sentences = []
    for row in study.comparisons:
        values = {name: value for name, value in row.items() if name in known and value is not None}
        named = values | {side: study.title(row[side]) for side in ("a", "b")}
        named["differences"] = tuple(row["differences"])
        sentence = str(Comparison(**{"estimate": math.nan, **named}))
        sentences.append(f"{sentence[0].upper()}{sentence[1:]}.")
    return sentences


def _verdict(read: _Read) -> ReportSection:
    study = read.study
    sentences = verdict_sentences(study)
    if not sentences:
        sentences = [_NO_WORD if read.tables else "Nothing has been tested, so there is no verdict."]
    elif not any(row["word"] for row in study.comparisons):
        sentences.append(_NO_WORD)
    paragraphs = [" ".join([*_provisional(study), *sentences]), *_context(study), *_left_out(study, read.tables)]
    rows = [_arm_row(study, arm, read) for arm in read.tables]
    headers = ["arm", "mean", "95 % interval", "patients", "repeats"]
    tables = [ResultTable("All arms", headers, rows, _note(study, read))] if rows else []
    return ReportSection("Verdict", paragraphs, tables, list(_arms_figure(read)))


def _provisional(study: StudyFolder) -> Iterator[str]:
    if reason := study.protocol.get("provisional"):
        yield f"Provisional: {reason}."


def _context(study: StudyFolder) -> Iterator[str]:
    exported, protocol = study.exported or {}, study.protocol
    if exported.get("arm"):
        reason = f" ({exported['reason']})" if exported.get("reason") else ""
        yield f"Exported: {study.title(exported['arm'])}{reason}. {_stated(exported, protocol)}".strip()
    facts = [
        f"Question: {protocol['estimand']}." if protocol.get("estimand") else "",
        f"Base: {protocol['base']}." if protocol.get("base") else "",
        _counts(protocol),
        "SSA also saw the scans of the tested patients, without their labels." if protocol.get("transductive") else "",
    ]
    if any(facts):
        yield " ".join(fact.replace("..", ".") for fact in facts if fact)


def _stated(exported: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
    """Return the performance of the exported arm, which verdict.json has corrected for choosing among the arms."""
    value = exported.get("estimate")
    if not isinstance(value, (int, float)):
        return ""
    low, high = exported.get("low"), exported.get("high")
    interval = f" ({low:.3f} to {high:.3f})" if isinstance(low, (int, float)) and isinstance(high, (int, float)) else ""
    return f"Its stated performance, cross-validated and corrected for choosing: {value:.3f}{interval}."


def _counts(protocol: Mapping[str, Any]) -> str:
    parts = [
        (protocol.get("labels"), "labelled patients to train on"),
        (protocol.get("patients"), "tested"),
        (protocol.get("unlabeled"), "scans for SSA"),
        (protocol.get("repeats"), "repeats"),
    ]
    told = ", ".join(f"{value} {what}" for value, what in parts if value is not None)
    unit = f" Unit: {protocol['unit']}." if protocol.get("unit") else ""
    return f"{told[0].upper()}{told[1:]}.{unit}" if told else unit.strip()


def _left_out(study: StudyFolder, tables: Mapping[str, ArmTable]) -> Iterator[str]:
    """Name the arms that were planned and have no scores, each with its reason."""
    lines = [f"{each['title'] or each['name']} (dropped: {each['reason']})" for each in study.dropped]
    for arm in study.titles:
        reasons = [study.failure(stage) for stage in study.stages if stage.arm == arm]
        failed = next(filter(None, reasons), "")
        if failed:
            lines.append(f"{study.title(arm)} (failed: {failed})")
        elif arm not in tables:
            lines.append(f"{study.title(arm)} (not tested yet)")
    if lines:
        yield f"Not compared, or not in full: {', '.join(lines)}."


def _arm_row(study: StudyFolder, arm: str, read: _Read) -> list[str]:
    table = read.tables[arm]
    scored = next((row for row in study.arms if row["name"] == arm), None)
    repeats = str(max(len(values) for values in table.cases.values()))
    if scored is None or scored["mean"] is None:
        values = list(table.by_patient(read.names).values())
        mean = f"{math.fsum(values) / len(values):.3f}" if values else "-"
        return [study.title(arm), mean, "-", str(len(values)), repeats]
    interval = "-" if scored["low"] is None else f"{scored['low']:.3f} to {scored['high']:.3f}"
    return [study.title(arm), f"{scored['mean']:.3f}", interval, str(scored["n"]), repeats]


def _note(study: StudyFolder, read: _Read) -> str:
    metric = study.protocol.get("metric") or next(iter(read.tables.values())).metric
    direction = "higher" if next(iter(read.tables.values())).higher_is_better else "lower"
    return (
        f"{metric[0].upper()}{metric[1:]}; {direction} is better. These intervals are of each arm alone; whether two "
        "arms differ is said above, by comparisons patient by patient."
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
    """Read the scores of each arm, in the order of the plan; an arm with no table is left out."""
    listed = dict.fromkeys([*study.titles, *(stage.arm for stage in study.stages if stage.arm)])
    for arm in listed:
        stages = [*study.of("test", arm), *study.of("floor", arm)]
        folders = [study.run(stage) for stage in stages if not study.failure(stage)]
        table = arm_table(list(dict.fromkeys(folders)))
        if table is not None:
            yield arm, table


def _names(folder: Path, show_ids: bool) -> CaseNames:
    datalist = folder / "datalist.json"
    if not datalist.is_file():
        return CaseNames(shown=show_ids)
    patients = listed_patients(datalist, section_names(read_datalist(datalist)))
    return CaseNames.of_datalist(datalist, patients, show_ids)
