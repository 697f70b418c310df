# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The demo is a small study: pre-train on one scanner, adapt to another, and segment with three labels.

It needs the extra [demo]: nilearn for the cohort, matplotlib and jinja2 for the report.
"""

from __future__ import annotations

from monai_essa.demo.run import DemoSize, run_demo

__all__ = ["DemoSize", "run_demo"]
