# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read what a test measured: Dice by case, and the cases to show."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import LoadImage, Orientation

from monai_essa.data import VolumeReader
from monai_essa.report.panels import SegmentationCase

__all__ = ["mean_by_case", "read_case", "read_dice", "telling_cases"]


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
