# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Compute metrics of finished runs, with confidence intervals."""

from __future__ import annotations

from monai_essa.evaluation.bootstrap import Interval, bootstrap_interval
from monai_essa.evaluation.cases.classification import ClassificationReport, classification_intervals
from monai_essa.evaluation.cases.segmentation import CaseScores, SegmentationReport, score_structure
from monai_essa.evaluation.comparison import Comparison, Primary, verdict_word
from monai_essa.evaluation.metrics import (
    DefinedDice,
    area_under_roc,
    balanced_accuracy,
    brier_score,
    dice_handler,
    expected_calibration_error,
    macro_f1,
    quadratic_weighted_kappa,
    reliability_bins,
)
from monai_essa.evaluation.probe import ProbeResult, probe_features
from monai_essa.evaluation.probe_scans import Crops, probe_networks, scan_crops
from monai_essa.evaluation.repeats import ArmScores, mean_interval
from monai_essa.evaluation.run_scores import RunScores, SiteScores, joined_folds, read_run, site_scores
from monai_essa.evaluation.verdict import Verdict, compare_arms, reach_verdict

__all__ = [
    "ArmScores",
    "CaseScores",
    "ClassificationReport",
    "Comparison",
    "Crops",
    "DefinedDice",
    "Interval",
    "Primary",
    "ProbeResult",
    "RunScores",
    "SegmentationReport",
    "SiteScores",
    "Verdict",
    "area_under_roc",
    "balanced_accuracy",
    "bootstrap_interval",
    "brier_score",
    "classification_intervals",
    "compare_arms",
    "dice_handler",
    "expected_calibration_error",
    "joined_folds",
    "macro_f1",
    "mean_interval",
    "probe_features",
    "probe_networks",
    "quadratic_weighted_kappa",
    "reach_verdict",
    "read_run",
    "reliability_bins",
    "scan_crops",
    "score_structure",
    "site_scores",
    "verdict_word",
]
