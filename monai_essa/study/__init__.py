# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One study of a site, from its scans to a verdict: its partition, its stages and its outcome."""

from __future__ import annotations

from monai_essa.study.splits import SplitRequest, partition
from monai_essa.study.terms.partition import Fold, Partition, Scan, partition_sections

__all__ = ["Fold", "Partition", "Scan", "SplitRequest", "partition", "partition_sections"]
