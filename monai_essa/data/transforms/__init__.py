# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Dictionary transforms for volumes that MONAI lacks."""

from __future__ import annotations

from monai_essa.data.transforms.check_volume import CheckVolumed, DropSliceAxisd, MapLabelIdsd
from monai_essa.data.transforms.foreground import (
    ClipForegroundPercentilesd,
    MarkCropCentresd,
    MarkForegroundd,
    foreground_threshold,
)

__all__ = [
    "CheckVolumed",
    "ClipForegroundPercentilesd",
    "DropSliceAxisd",
    "MapLabelIdsd",
    "MarkCropCentresd",
    "MarkForegroundd",
    "foreground_threshold",
]
