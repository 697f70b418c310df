# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Losses of the pretext objectives."""

from __future__ import annotations

from monai_essa.losses.patch_reconstruction import PatchReconstruction, gradient_difference, normalise_patches
from monai_essa.losses.patches import gather_patches, patchify, scatter_patches, unpatchify

__all__ = [
    "PatchReconstruction",
    "gather_patches",
    "gradient_difference",
    "normalise_patches",
    "patchify",
    "scatter_patches",
    "unpatchify",
]
