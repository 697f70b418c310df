# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


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

__all__ = [
    "ClassificationReport",
    "Interval",
    "area_under_roc",
    "balanced_accuracy",
    "bootstrap_interval",
    "classification_intervals",
    "expected_calibration_error",
    "macro_f1",
    "quadratic_weighted_kappa",
]
