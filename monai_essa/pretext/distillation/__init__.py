# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Self-distillation: a student learns from views that its own moving average saw."""

from __future__ import annotations

from monai_essa.pretext.distillation.dinov2 import DINOv2, DistillationWeights
from monai_essa.pretext.distillation.head import DINOHead
from monai_essa.pretext.distillation.losses import gram_loss, image_token_loss, masked_token_loss, spread_loss
from monai_essa.pretext.distillation.schedules import DistillationSchedule

__all__ = [
    "DINOHead",
    "DINOv2",
    "DistillationSchedule",
    "DistillationWeights",
    "gram_loss",
    "image_token_loss",
    "masked_token_loss",
    "spread_loss",
]
