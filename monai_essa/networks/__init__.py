# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One view of an encoder, whichever MONAI network holds it."""

from __future__ import annotations

from monai_essa.networks.classification import classification_network
from monai_essa.networks.encoder_view import encoder_view
from monai_essa.networks.feature_map_encoder import FeatureMapEncoder
from monai_essa.networks.position_embedding import interpolate_positions, keep_grid, kept_grid, state_with_grid
from monai_essa.networks.token_encoder import TokenEncoder

__all__ = [
    "FeatureMapEncoder",
    "TokenEncoder",
    "classification_network",
    "encoder_view",
    "interpolate_positions",
    "keep_grid",
    "kept_grid",
    "state_with_grid",
]
