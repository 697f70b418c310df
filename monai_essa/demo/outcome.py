# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Collect what the demo measured: Dice by case, the majority vote as a floor, and the cases to show."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.metrics import compute_dice
from monai.networks import one_hot
from monai.transforms import Compose, LoadImage, Orientation, Spacing

from monai_essa.adapters.summary import Summary
from monai_essa.data import VolumeReader, load_datalist
from monai_essa.demo.data import DemoData
from monai_essa.evaluation.baselines import majority_vote
from monai_essa.report.charts import read_loss_log
from monai_essa.report.panels import SegmentationCase
from monai_essa.report.tables import MethodResult, ResultTable
from monai_essa.study.stages import Stage

__all__ = [
    "TrainedStage",
    "comparison_table",
    "majority_vote_dice",
    "mean_by_case",
    "read_case",
    "read_dice",
    "stages_table",
    "telling_cases",
]


@dataclass(frozen=True)
class TrainedStage:
    """Describe a finished training stage.

    Args:
        stage: the stage as it was planned.
        seconds: wall-clock time, with reading and validation.
        learned: summary of the trained network.
    """

    stage: Stage
    seconds: float
    learned: Summary

    @property
    def folder(self) -> Path:
        """Return the run folder."""
        return Path(self.stage.values["output_dir"])

    @property
    def log(self) -> dict[str, np.ndarray]:
        """Read the losses that the stage logged."""
        return read_loss_log(self.folder / "losses.jsonl")

    @property
    def adapter_bytes(self) -> int:
        """Return the size of the adapter file in bytes."""
        return (self.folder / "adapter.safetensors").stat().st_size


def read_dice(path: Path, classes: Sequence[str]) -> dict[str, list[float]]:
    """Read the Dice of each case from what MONAI's ``MetricsSaver`` wrote.

    Args:
        path: ``dice_raw.csv``: a row for each case, the columns ``class0``, ``class1``, ...
        classes: names of the classes, without the background.

    Returns:
        Dice of each case by class; NaN if neither the label nor the prediction holds the class.

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
        dice: Dice of each case by class.

    Returns:
        One value for each case; NaN if it has none of the classes.
    """
    values = np.ma.masked_invalid(list(dice.values()))  # (classes, cases)
    return np.ma.filled(values.mean(axis=0), np.nan)


def comparison_table(results: Sequence[MethodResult]) -> ResultTable:
    """Compare the first method with each other one, case by case, by counts alone.

    Args:
        results: results on the same cases, in the same order.

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
        stages: the stages in the order in which they ran.

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


def telling_cases(dice: Mapping[str, Sequence[float]]) -> list[int]:
    """Choose the cases with the highest and the lowest mean Dice, so that the pictures do not flatter.

    Args:
        dice: Dice of each case by class.

    Returns:
        Numbers of two cases, or of the only one.

    Example:
        >>> telling_cases({"liver": [0.7, 0.9, 0.2]})
        [1, 2]
    """
    means = np.nan_to_num(mean_by_case(dice), nan=0.0)
    return list(dict.fromkeys([int(means.argmax()), int(means.argmin())]))


def read_case(title: str, item: Mapping[str, Any], prediction: Path) -> SegmentationCase:
    """Read image, label and prediction of a case.

    Args:
        title: title to show, without the file's name, which may name a patient.
        item: item of the datalist, with an ``image`` and a ``label``.
        prediction: label map in the geometry of the image.

    Returns:
        The case in RAS, with the first channel of the image.
    """
    read = LoadImage(reader=VolumeReader(), ensure_channel_first=True)
    turn = Orientation("RAS", labels=None)
    volumes: list[Any] = [turn(read(path)) for path in (item["image"], item["label"], prediction)]
    image, label, predicted = (np.asarray(volume[0]) for volume in volumes)
    return SegmentationCase(title, image, label.astype(int), predicted.astype(int), volumes[0].pixdim.tolist())


def majority_vote_dice(data: DemoData) -> dict[str, list[float]]:
    """Measure the vote of the training labels on the test volumes, on the grid that the networks see.

    Args:
        data: the data of the demo.

    Returns:
        Dice of each test case by class; the background is left out.
    """
    load = Compose(
        [
            LoadImage(reader=VolumeReader(), ensure_channel_first=True),
            Orientation("RAS", labels=None),
            Spacing(data.card.spacing, mode="nearest"),
        ]
    )
    names = list(data.card.labels)
    training, test = (
        [load(item["label"]).as_tensor() for item in load_datalist(data.datalist, data.sections[section])]
        for section in ("training", "test")
    )
    dice = [
        compute_dice(
            one_hot(majority_vote(training, label.shape[1:], len(names))[None], len(names)),
            one_hot(label[None], len(names)),
            include_background=False,
        )[0]
        for label in test
    ]
    return {name: [float(case[number]) for case in dice] for number, name in enumerate(names[1:])}
