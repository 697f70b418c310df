# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The scores of tested cases as the report shows them: by arm, patient and class, under digests in place of names."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from monai_essa.data.lists.read import listed_patients, read_datalist, section_items
from monai_essa.data.pairing.names import patient_of
from monai_essa.evaluation.run_scores import DICE, RunScores, read_run
from monai_essa.files import file_sha256, short_digest
from monai_essa.outside import printable

__all__ = ["ArmTable", "CaseNames", "arm_table", "case_rows", "class_probabilities", "tested_sections"]


@dataclass(frozen=True)
class CaseNames:
    """How cases and patients are called.

    Attributes:
        patients: the patient of an image by its path, where a data list says it.
        salt: what digests are made with, so that a list of known names does not tell who is behind one.
        shown: whether names are shown as they are.
    """

    patients: Mapping[str, str] = field(default_factory=dict)
    salt: str = ""
    shown: bool = False

    @classmethod
    def of_datalist(cls, datalist: Path | None, shown: bool) -> CaseNames:
        """Return names by a data list, whose content is their salt since it does not travel with a report."""
        if datalist is None or not datalist.is_file():
            return cls(shown=shown)
        return cls(listed_patients(datalist, tested_sections(datalist)), file_sha256(datalist), shown)

    def patient(self, case: str) -> str:
        """Return the patient of a case."""
        return self.patients.get(case) or patient_of(case)

    def called(self, case: str) -> str:
        """Return what the report calls a case: its file's name, or a digest of its patient and file."""
        if self.shown:
            return printable(Path(case).name)
        parts = (short_digest(self.salt, " ", text, size=size) for text, size in ((self.patient(case), 3), (case, 2)))
        return "-".join(parts)


@dataclass(frozen=True, eq=False)
class ArmTable:
    """The scores of one arm.

    Attributes:
        metric: of the scores.
        cases: of each case, by its path, the score of each repeat; NaN if undefined.
        runs: the evaluated runs, in the order of the plan.
    """

    metric: str
    cases: Mapping[str, tuple[float, ...]]
    runs: tuple[RunScores, ...]

    @property
    def higher_is_better(self) -> bool:
        """Tell the direction of the metric."""
        return self.metric == DICE

    def means(self) -> dict[str, float]:
        """Return the mean of each case over its defined repeats, NaN without any."""
        return {case: _mean(values) for case, values in self.cases.items()}

    def by_patient(self, names: CaseNames) -> dict[str, float]:
        """Return the mean of each patient over the cases that have a score."""
        found: dict[str, list[float]] = defaultdict(list)
        for case, value in self.means().items():
            if not math.isnan(value):
                found[names.patient(case)].append(value)
        return {patient: _mean(values) for patient, values in found.items()}

    def worst_first(self) -> list[str]:
        """Return the cases from the worst to the best, those without a score at the end."""
        means = self.means()
        scored = sorted((case for case in means if not math.isnan(means[case])), key=lambda case: (means[case], case))
        rest = sorted(case for case in means if math.isnan(means[case]))
        return [*(scored if self.higher_is_better else reversed(scored)), *rest]


def tested_sections(datalist: Path) -> list[str]:
    """Return the sections of a data list that hold test cases, of a study or of a site; all that are not empty else.

    Args:
        datalist: the JSON file.
    """
    filled = [name for name, items in section_items(read_datalist(datalist)) if items]
    return [name for name in filled if name.rpartition("#")[2] == "test"] or filled


def arm_table(folders: Sequence[Path]) -> ArmTable | None:
    """Read the tables of the runs of an arm.

    Args:
        folders: of its evaluated runs, of all repeats and folds.

    Returns:
        The scores; None if no run has a table.

    Raises:
        ValueError: if a table is damaged, or the runs have tables of two tasks.
    """
    runs = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except FileNotFoundError:
            continue
    if not runs:
        return None
    if len({run.metric for run in runs}) > 1:
        raise ValueError(f"{runs[0].folder} and others: expected tables of one task, got Dice and probabilities")
    cases: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for case, score in run.scores.items():
            cases[case].append(score)
    return ArmTable(runs[0].metric, {case: tuple(values) for case, values in cases.items()}, tuple(runs))


def case_rows(table: ArmTable) -> tuple[list[str], dict[str, list[float]]]:
    """Return the columns of the tables and, for each case, their means over the repeats.

    Args:
        table: of an arm.

    Returns:
        The names of the columns as MONAI writes them (``class0`` is the first class after the background), or those of
        the classes; and the values by case.
    """
    collected: dict[str, list[list[float]]] = defaultdict(list)
    columns: list[str] = []
    for run in table.runs:
        found, rows = _rows(run)
        columns = columns or found
        for case, values in rows.items():
            if len(values) == len(columns):
                collected[case].append(values)
    return columns, {case: [_mean(column) for column in zip(*rows, strict=True)] for case, rows in collected.items()}


def class_probabilities(table: ArmTable) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the classes, and the probabilities (N, C) and truth (N, C) of all cases, probabilities averaged.

    Args:
        table: of an arm of a classification.
    """
    columns, rows = case_rows(table)
    truth = {case: labels for run in table.runs for case, labels in run.truth.items()}
    known = [case for case in rows if not any(map(math.isnan, rows[case]))]
    probabilities = np.array([rows[case] for case in known], dtype=float).reshape(len(known), len(columns))
    there = np.array([[name in truth[case] for name in columns] for case in known], dtype=int)
    return columns, probabilities, there.reshape(len(known), len(columns))


def _rows(run: RunScores) -> tuple[list[str], dict[str, list[float]]]:
    """Read the columns behind a case's name, which itself may hold a comma where MONAI wrote the table.

    ``read_run`` has checked the table before.
    """
    segmentation = run.metric == DICE
    name = "dice_raw.csv" if segmentation else "predictions.csv"
    with (run.folder / name).open(encoding="utf-8", newline="") as file:
        header, *lines = [row for row in csv.reader(file) if row]
    columns = header[1:] if segmentation else header[2:]
    kept = [place for place, column in enumerate(columns) if column != "mean" or not segmentation]
    rows = {}
    for line in lines:
        case = ",".join(line[: len(line) - len(columns)]) if segmentation else line[0]
        values = line[len(line) - len(columns) :]
        rows[case] = [float(values[place]) for place in kept]
    return [columns[place] for place in kept], rows


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
