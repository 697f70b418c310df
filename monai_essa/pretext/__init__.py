# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Pretext objectives: what a network learns from without labels."""

from __future__ import annotations

from monai_essa.pretext.contrastive import Contrastive
from monai_essa.pretext.diet import DIET
from monai_essa.pretext.distillation import DINOHead, DINOv2, DistillationSchedule, DistillationWeights
from monai_essa.pretext.losses import (
    PatchReconstruction,
    gather_patches,
    normalise_patches,
    patchify,
    scatter_patches,
    unpatchify,
)
from monai_essa.pretext.mae import MAE, MAEDecoder
from monai_essa.pretext.masking import block_mask, expand_mask, masked_count, random_mask, split_cells
from monai_essa.pretext.simmim import SimMIM

__all__ = [
    "DIET",
    "DINOHead",
    "DINOv2",
    "DistillationSchedule",
    "DistillationWeights",
    "MAE",
    "Contrastive",
    "MAEDecoder",
    "PatchReconstruction",
    "SimMIM",
    "block_mask",
    "expand_mask",
    "gather_patches",
    "masked_count",
    "normalise_patches",
    "patchify",
    "random_mask",
    "scatter_patches",
    "split_cells",
    "unpatchify",
]
