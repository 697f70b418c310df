# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The report shows the best and the worst test case, the right way round."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monai_essa.demo.outcome import read_case, telling_cases


@pytest.mark.parametrize(
    ("dice", "expected"), [([0.7, 0.9, 0.2], [1, 2]), ([0.7], [0]), ([0.5, 0.5], [0]), ([0.7, math.nan, 0.9], [2, 1])]
)
def test_the_highest_and_the_lowest_are_shown(dice: list[float], expected: list[int]) -> None:
    assert telling_cases({"liver": dice}) == expected


def test_volumes_of_any_orientation_are_turned_to_ras(write_volume: Callable[..., Path], tmp_path: Path) -> None:
    lps = np.diag([-1.0, -2.0, 3.0, 1.0])
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = write_volume(tmp_path / "image.nii.gz", voxels, lps)
    label = write_volume(tmp_path / "label.nii.gz", (voxels == 0).astype(np.uint8), lps)
    prediction = write_volume(tmp_path / "prediction.nii.gz", (voxels[::-1, ::-1] == 0).astype(np.uint8), np.eye(4))

    case = read_case("case 1", {"image": str(image), "label": str(label)}, prediction)

    assert case.title == "case 1"
    np.testing.assert_array_equal(case.image, voxels[::-1, ::-1])
    np.testing.assert_array_equal(np.argwhere(case.label), [[1, 2, 0]])
    np.testing.assert_array_equal(np.argwhere(case.prediction), [[1, 2, 0]])
    assert list(case.spacing) == [1.0, 2.0, 3.0]
