# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The test cases that the report shows: which, and their voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import LoadImage, Orientation

from monai_essa.data import VolumeReader
from monai_essa.demo.outcome import mean_by_case
from monai_essa.report.image_panels import SegmentationCase

__all__ = ["read_case", "telling_cases"]


def telling_cases(dice: Mapping[str, Sequence[float]]) -> list[int]:
    """Choose the cases with the highest and the lowest mean Dice, so that a picture shows no better than it was.

    Args:
        dice: of each case by class.

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
        title: without the file's name, which may name a patient.
        item: of the datalist, with an ``image`` and a ``label``.
        prediction: label map in the geometry of the image.

    Returns:
        The case in RAS; the first channel of the image.
    """
    read = LoadImage(reader=VolumeReader(), ensure_channel_first=True)
    turn = Orientation("RAS", labels=None)
    volumes: list[Any] = [turn(read(path)) for path in (item["image"], item["label"], prediction)]
    image, label, predicted = (np.asarray(volume[0]) for volume in volumes)
    return SegmentationCase(title, image, label.astype(int), predicted.astype(int), volumes[0].pixdim.tolist())
