# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Objectives that compare views in the engine: their batches, the schedule of weight decay, the alarm of a collapse."""

from __future__ import annotations

from monai_essa.engines.views.batches import empty_views, local_crop_size, prepare_numbered_batch, prepare_views_batch
from monai_essa.engines.views.collapse import CollapseAlarm, feature_rank, patch_tokens
from monai_essa.engines.views.teacher import TeacherHandOver, WeightDecaySchedule

__all__ = [
    "CollapseAlarm",
    "TeacherHandOver",
    "WeightDecaySchedule",
    "empty_views",
    "feature_rank",
    "local_crop_size",
    "patch_tokens",
    "prepare_numbered_batch",
    "prepare_views_batch",
]
