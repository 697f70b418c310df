# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What came out of the demo: Dice as the bundles wrote it, and the tables."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_essa.demo.stage import Stage
from monai_essa.parameter_summary import Summary
from monai_essa.report.loss_log import read_loss_log
from monai_essa.report.results import MethodResult
from monai_essa.report.tables import ResultTable

__all__ = ["TrainedStage", "comparison_table", "mean_by_case", "read_dice", "stages_table"]


@dataclass(frozen=True)
class TrainedStage:
    """A finished training stage.

    Args:
        stage: as it was planned.
        seconds: wall-clock time, with reading and validation.
        learned: what learned.
    """

    stage: Stage
    seconds: float
    learned: Summary

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.stage.values["output_dir"])

    @property
    def log(self) -> dict[str, np.ndarray]:
        """The losses of the run."""
        return read_loss_log(self.folder / "losses.jsonl")

    @property
    def adapter_bytes(self) -> int:
        """Size of the adapter file."""
        return (self.folder / "adapter.safetensors").stat().st_size


def read_dice(path: Path, classes: Sequence[str]) -> dict[str, list[float]]:
    """Read the Dice of each case from what MONAI's ``MetricsSaver`` wrote.

    Args:
        path: ``dice_raw.csv``: a row for each case, the columns ``class0``, ``class1``, ...
        classes: their names, without the background.

    Returns:
        Dice of each case by class, NaN where neither label nor prediction holds it.

    Raises:
        ValueError: if the file has another number of classes.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in (rows[0] if rows else ()) if name.startswith("class")]
    if len(columns) != len(classes):
        raise ValueError(f"{path} holds {len(columns)} classes, expected {len(classes)}: {', '.join(classes)}")
    return {name: [float(row[column]) for row in rows] for name, column in zip(classes, columns, strict=True)}


def mean_by_case(dice: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Average the Dice of each case over the classes that it has.

    Args:
        dice: of each case by class.

    Returns:
        One value for each case, NaN where it has no class.
    """
    values = np.ma.masked_invalid(list(dice.values()))  # (classes, cases)
    return np.ma.filled(values.mean(axis=0), np.nan)


def comparison_table(results: Sequence[MethodResult]) -> ResultTable:
    """Compare the first method with each other one, case by case, and claim no more than the counts.

    Args:
        results: of the same cases, in the same order.

    Returns:
        A table for the terminal or the HTML report.
    """
    first, *others = results
    ours = mean_by_case(first.dice)
    rows = []
    for other in others:
        difference = ours - mean_by_case(other.dice)
        counts = (difference > 0).sum(), (difference < 0).sum()
        rows.append([other.name, f"{np.nanmean(difference):+.3f}", *(f"{count} of {len(ours)}" for count in counts)])
    headers = ["against", "difference of mean Dice", "higher in", "lower in"]
    return ResultTable(f"Case by case: {first.name}", headers, rows, "Dice of a case: mean over the classes.")


def stages_table(stages: Sequence[TrainedStage]) -> ResultTable:
    """Set the training stages side by side.

    Args:
        stages: in the order in which they ran.

    Returns:
        A table for the terminal or the HTML report.
    """
    rows = [
        [
            trained.stage.title,
            f"{int(trained.log['iteration'][-1])}",
            f"{trained.learned.trainable:,} of {trained.learned.total:,}",
            f"{trained.seconds:.1f}",
            f"{trained.adapter_bytes / 1e6:.2f} MB",
        ]
        for trained in stages
    ]
    note = "Seconds: wall-clock time of a stage with reading and validation. Adapter: the file adapter.safetensors."
    return ResultTable("What trained", ["stage", "steps", "trained parameters", "seconds", "adapter"], rows, note)
