# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The demo runs the shipped bundles: pre-train on one scanner, adapt to another, and segment with three labels.

It needs the extra [demo]: nilearn for the cohort, matplotlib and jinja2 for the report.
"""

from __future__ import annotations

from monai_essa.demo.run import run_demo
from monai_essa.demo.stages import DemoSize, Epochs

__all__ = ["DemoSize", "Epochs", "run_demo"]
