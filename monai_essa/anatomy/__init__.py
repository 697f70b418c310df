# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a MONAI network is made of: the only place with attribute names of network classes."""

from __future__ import annotations

from monai_essa.anatomy.described.description import (
    BlockDescription,
    EncoderDescription,
    MapDescription,
    TokenDescription,
    timm_vit,
)
from monai_essa.anatomy.described.fit import describe
from monai_essa.anatomy.encoders import FeatureMapEncoder, TokenEncoder, encoder_view
from monai_essa.anatomy.heads import classification_network
from monai_essa.anatomy.positions import interpolate_positions, keep_grid, kept_grid, state_with_grid

__all__ = [
    "BlockDescription",
    "EncoderDescription",
    "FeatureMapEncoder",
    "MapDescription",
    "TokenDescription",
    "TokenEncoder",
    "classification_network",
    "describe",
    "encoder_view",
    "interpolate_positions",
    "keep_grid",
    "kept_grid",
    "state_with_grid",
    "timm_vit",
]
