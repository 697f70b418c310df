# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The results of one arm in detail: case by case, in pictures, and for a classification its reliability and ROC."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_essa.data import listed_label_map, load_datalist
from monai_essa.evaluation.cases.segmentation import OUTCOMES
from monai_essa.evaluation.metrics import area_under_roc, expected_calibration_error
from monai_essa.outside import printable, shown
from monai_essa.report.cases import ShownCase, case_figures, telling_cases
from monai_essa.report.charts import figure_png
from monai_essa.report.html import ReportFigure, ReportSection
from monai_essa.report.study.figures import reliability_figure, roc_figure
from monai_essa.report.study.folder import StudyFolder
from monai_essa.report.study.scores import ArmTable, CaseNames, case_rows, class_probabilities, tested_sections
from monai_essa.report.tables import ResultTable

__all__ = [
    "case_section",
    "case_table",
    "listed_labels_of",
    "picture_section",
    "probability_figures",
    "probability_section",
    "shown_cases",
    "structure_table",
]

_MOST_ROWS = 200


def case_section(study: StudyFolder, tables: Mapping[str, ArmTable], arm: str, names: CaseNames) -> ReportSection:
    """Tabulate the cases of an arm, the worst first, with the score that each other arm has on them.

    Args:
        study: the folder.
        tables: scores by arm.
        arm: whose cases are listed.
        names: what the cases are called.
    """
    classes = study.labels if study.classification else study.labels[1:]
    table = case_table(tables[arm], names, classes, {study.title(name): tables[name] for name in tables if name != arm})
    told = f"{study.title(arm)}, the worst case first."
    kind = "names of files" if names.shown else "digests of patient and case, which only the data list can resolve"
    shown_tables = [table, *structure_table(tables[arm])]
    return ReportSection("Case by case", [f"{told} Cases are called by {kind}."], shown_tables)


def case_table(
    table: ArmTable, names: CaseNames, classes: Sequence[str], others: Mapping[str, ArmTable] | None = None
) -> ResultTable:
    """Tabulate the cases, the worst first.

    Args:
        table: scores of an arm or a run.
        names: what the cases are called.
        classes: names for the columns of a segmentation, in their order; other columns keep the name that they have.
        others: scores of other arms on the same cases, by title.
    """
    columns, rows = case_rows(table)
    if table.higher_is_better and len(classes) == len(columns):
        columns = list(classes)
    means = table.means()
    truth = {case: "+".join(labels) for run in table.runs for case, labels in run.truth.items()}
    rivals = {title: rival.means() for title, rival in (others or {}).items()}
    order = table.worst_first()
    label = [] if table.higher_is_better else ["label"]
    score = "mean Dice" if table.higher_is_better else "Brier score"
    several = [f"Dice, {name}" for name in columns] if table.higher_is_better else [f"p, {name}" for name in columns]
    cells = [
        [
            names.called(case),
            *([truth[case]] if label else []),
            _three(means[case]),
            *(_three(value) for value in rows.get(case, [math.nan] * len(columns))),
            *(_three(rival.get(case, math.nan)) for rival in rivals.values()),
        ]
        for case in order[:_MOST_ROWS]
    ]
    note = "Means over the repeats. '-': the label has none of the class, or there is no score."
    if len(order) > _MOST_ROWS:
        note += f" {len(order) - _MOST_ROWS} better cases are left out; test/ in the run folders has them all."
    return ResultTable(
        "Scores by case", ["case", *label, score, *several, *(f"{score}, {title}" for title in rivals)], cells, note
    )


def structure_table(table: ArmTable) -> Iterator[ResultTable]:
    """Summarise cases.csv of the runs by class: what was found, missed and added, surface Dice, HD95 and volumes.

    Args:
        table: scores of an arm or a run. Runs of earlier versions have no such file, and then there is no table.

    Yields:
        The table.
    """
    by_class: dict[str, list[dict[str, str]]] = {}
    for run in table.runs:
        for row in _structures(run.folder / "cases.csv"):
            by_class.setdefault(printable(row["class"]), []).append(row)
    if not by_class:
        return
    first = next(iter(by_class.values()))[0]
    distance, volume = (next((name for name in first if name.startswith(start)), "") for start in ("hd95", "volume"))
    rows = [
        [
            name,
            *(str(sum(row["outcome"] == outcome for row in found)) for outcome in OUTCOMES),
            *(_mean_of(found, column) for column in ("dice", "nsd", distance, volume, f"label_{volume}")),
        ]
        for name, found in by_class.items()
    ]
    units = [column.partition("_")[2] for column in (distance, volume)]
    headers = ["class", *OUTCOMES, "Dice", "surface Dice", f"HD95, {units[0]}", f"volume, {units[1]}", "of the label"]
    note = (
        "Cases of all repeats. Found: in label and prediction; missed: in the label only; added: in the prediction "
        "only; absent: in neither. A missed structure has no distance, so read HD95 with that count."
    )
    yield ResultTable("Structures", headers, rows, note)


def picture_section(study: StudyFolder, table: ArmTable, arm: str, names: CaseNames) -> ReportSection:
    """Draw the best, the median and the worst case of an arm, each predicted by a run that did not train on it.

    Args:
        study: the folder.
        table: scores of the arm.
        arm: name of the arm.
        names: what the cases are called.
    """
    title = "Best, median and worst case"
    if not any(stage.kind == "test" for stage in study.stages if stage.arm == arm):
        return ReportSection(title, [f"{study.title(arm)} is no network, so there is nothing to draw."])
    labels = listed_labels_of(study.path / "datalist.json")
    cases, missing = shown_cases(table, names, labels)
    figures, undrawn = case_figures(cases, study.labels[1:], listed_label_map(study.path / "datalist.json"))
    told = f"{study.title(arm)}, chosen by the mean score of all tested cases that have one; drawn by its first repeat."
    return ReportSection(title, [told, *missing, *undrawn], figures=figures)


def shown_cases(table: ArmTable, names: CaseNames, labels: Mapping[str, str]) -> tuple[dict[str, ShownCase], list[str]]:
    """Choose the cases to draw, and say which have no label map.

    Args:
        table: scores of an arm or a run.
        names: what the cases are called.
        labels: path of the label map by that of the image.
    """
    means = table.means()
    scored = [case for case in table.worst_first() if not math.isnan(means[case])]
    cases, missing = {}, []
    for kind, case in telling_cases(scored).items():
        run = next(run for run in table.runs if case in run.scores)
        folder = run.folder.parent if run.folder.name == "test" else run.folder
        label = labels.get(os.path.abspath(case))
        title = f"{names.called(case)}, mean Dice {means[case]:.3f}"
        if label is None:
            missing.append(
                f"The {kind} case, {title}, is not drawn: its image or label map was not found by the data list."
            )
        else:
            cases[kind] = ShownCase(title, case, label, folder)
    return cases, missing


def listed_labels_of(datalist: Path) -> dict[str, str]:
    """Return the path of the label map of each image of a data list, both absolute; empty without a list.

    Args:
        datalist: the JSON file.
    """
    if not datalist.is_file():
        return {}
    found = {}
    for section in tested_sections(datalist):
        for item in _labelled(datalist, section):
            image = item["image"][0] if isinstance(item["image"], list) else item["image"]
            found[os.path.abspath(image)] = str(item["label"])
    return found


def probability_section(study: StudyFolder, table: ArmTable, arm: str, names: CaseNames) -> ReportSection:
    """Draw reliability and ROC of an arm of a classification.

    Args:
        study: the folder.
        table: scores of the arm.
        arm: name of the arm.
        names: unused here, since no case is named.
    """
    told = [f"{study.title(arm)}: the probabilities of each test case, averaged over the repeats."]
    if study.protocol.get("design") in ("folds", "leave-one-out"):
        told.append(
            "The folds have networks of their own, whose probabilities stand side by side in these two figures."
        )
    figures, sentence = probability_figures(table)
    return ReportSection("Reliability and ROC", [*told, sentence], figures=figures)


def probability_figures(table: ArmTable) -> tuple[list[ReportFigure], str]:
    """Draw reliability, where a case has one class, and ROC; return them with the numbers in a sentence.

    Args:
        table: scores of an arm or a run of a classification.
    """
    classes, probabilities, truth = class_probabilities(table)
    if not len(probabilities):
        return [], "No case has probabilities."
    figures = []
    numbers = []
    if (truth.sum(1) == 1).all():
        right = truth[range(len(truth)), probabilities.argmax(1)] > 0
        error = expected_calibration_error(probabilities.max(1), right)
        numbers.append(f"{right.mean():.1%} of the cases are classified right, the calibration error is {error:.3f}")
        figures.append(
            ReportFigure(
                figure_png(reliability_figure(probabilities, truth)),
                "Above: how often predictions of a probability are right; on the dashed line, as often as they say. "
                "Below: how many images have that probability.",
                f"Reliability; the expected calibration error is {error:.3f}.",
            )
        )
    area = area_under_roc(probabilities, truth)
    numbers.append(f"the area under the ROC curve is {_three(area)}")
    figures.append(
        ReportFigure(
            figure_png(roc_figure(probabilities, truth, classes)),
            "ROC: each class against the others; of two classes, the second.",
            f"ROC; the area under the curve is {_three(area)}.",
        )
    )
    sentence = f"{', '.join(numbers)}."
    return figures, f"{sentence[0].upper()}{sentence[1:]} No interval: these describe, the verdict decides."


def _structures(path: Path) -> list[dict[str, str]]:
    """Read the rows of cases.csv; [] without one."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = {"class", "outcome", "dice", "nsd"}
    if any(not wanted <= row.keys() or None in row or None in row.values() for row in rows):
        raise ValueError(f"{path}: expected the table of an evaluation, got other columns; score the run again")
    return rows


def _mean_of(rows: Sequence[Mapping[str, str]], column: str) -> str:
    try:
        values = [float(row[column]) for row in rows if row.get(column)]
    except ValueError as error:
        raise ValueError(f"cases.csv, column {column!r}: expected numbers, got {shown(str(error))}") from error
    return _three(math.fsum(values) / len(values)) if values else "-"


def _labelled(datalist: Path, section: str) -> Iterator[Mapping[str, Any]]:
    try:
        items = load_datalist(datalist, section)
    except (ValueError, OSError):
        return
    yield from (item for item in items if isinstance(item.get("label"), str) and "image" in item)


def _three(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
