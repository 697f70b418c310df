# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""report.html of a study of ``monai-essa adapt``, from its folder alone, or of several that differ in their labels."""

from __future__ import annotations

from monai_essa.report.study.efficiency import write_efficiency_report
from monai_essa.report.study.page import write_study_report

__all__ = ["write_efficiency_report", "write_study_report"]
