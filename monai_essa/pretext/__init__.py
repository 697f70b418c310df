# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Pretext objectives: what a network learns from when no label is there."""

from __future__ import annotations

from monai_essa.pretext.mae import MAE
from monai_essa.pretext.mae_decoder import MAEDecoder
from monai_essa.pretext.masking import block_mask, expand_mask, masked_count, random_mask, split_cells
from monai_essa.pretext.simmim import SimMIM

__all__ = ["MAE", "MAEDecoder", "SimMIM", "block_mask", "expand_mask", "masked_count", "random_mask", "split_cells"]
