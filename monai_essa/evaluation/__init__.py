# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Metrics of finished runs, with confidence intervals."""

from __future__ import annotations

from monai_essa.evaluation.bootstrap import Interval, bootstrap_interval
from monai_essa.evaluation.classification_intervals import classification_intervals
from monai_essa.evaluation.classification_metrics import (
    area_under_roc,
    balanced_accuracy,
    expected_calibration_error,
    macro_f1,
    quadratic_weighted_kappa,
)
from monai_essa.evaluation.classification_report import ClassificationReport
from monai_essa.evaluation.segmentation_metrics import DefinedDice, dice_handler

__all__ = [
    "ClassificationReport",
    "DefinedDice",
    "Interval",
    "area_under_roc",
    "balanced_accuracy",
    "bootstrap_interval",
    "classification_intervals",
    "dice_handler",
    "expected_calibration_error",
    "macro_f1",
    "quadratic_weighted_kappa",
]
