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

"""Pretext objectives: what a network learns from when no label is there."""

from __future__ import annotations

from monai_essa.pretext.mae import MAE
from monai_essa.pretext.mae_decoder import MAEDecoder
from monai_essa.pretext.masking import block_mask, expand_mask, masked_count, random_mask, split_cells
from monai_essa.pretext.simmim import SimMIM

__all__ = ["MAE", "MAEDecoder", "SimMIM", "block_mask", "expand_mask", "masked_count", "random_mask", "split_cells"]
