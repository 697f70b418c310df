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
from monai_essa.data.transforms.multi_crop import MultiCropd
from monai_essa.data.transforms.view_intensity import RandSpeckle, view_intensity

__all__ = [
    "CheckVolumed",
    "ClipForegroundPercentilesd",
    "DropSliceAxisd",
    "MapLabelIdsd",
    "MarkCropCentresd",
    "MarkForegroundd",
    "MultiCropd",
    "RandSpeckle",
    "foreground_threshold",
    "view_intensity",
]
