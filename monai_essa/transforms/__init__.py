# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Dictionary transforms for volumes that MONAI lacks."""

from __future__ import annotations

from monai_essa.transforms.check_volume import CheckVolumed
from monai_essa.transforms.crop_centres import MarkCropCentresd
from monai_essa.transforms.foreground import ClipForegroundPercentilesd, MarkForegroundd, foreground_threshold
from monai_essa.transforms.label_ids import MapLabelIdsd
from monai_essa.transforms.single_slice import DropSliceAxisd

__all__ = [
    "CheckVolumed",
    "ClipForegroundPercentilesd",
    "DropSliceAxisd",
    "MapLabelIdsd",
    "MarkCropCentresd",
    "MarkForegroundd",
    "foreground_threshold",
]
