# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

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
