# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What is read back from a test."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from monai.handlers.utils import write_metrics_reports

from monai_essa.demo.outcome import mean_by_case, read_dice


def test_dice_is_what_monai_wrote(tmp_path: Path) -> None:
    details = {"dice": np.array([[0.25, 0.5], [0.75, math.nan]])}
    write_metrics_reports(tmp_path, ["a.nii", "b.nii"], None, details, None)

    dice = read_dice(tmp_path / "dice_raw.csv", ["liver", "spleen"])

    assert dice["liver"] == [0.25, 0.75]
    assert dice["spleen"] == [0.5, pytest.approx(math.nan, nan_ok=True)]


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    write_metrics_reports(tmp_path, ["a.nii"], None, {"dice": np.array([[0.25, 0.5]])}, None)

    with pytest.raises(ValueError, match="holds 2 classes, expected 1: liver"):
        read_dice(tmp_path / "dice_raw.csv", ["liver"])


def test_absent_classes_are_left_out_of_the_mean_of_a_case() -> None:
    means = mean_by_case({"liver": [0.5, 0.75, math.nan], "spleen": [0.7, math.nan, math.nan]})

    np.testing.assert_allclose(means, [0.6, 0.75, math.nan])
