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

"""Linear layers that do not learn, with their weight stored in fewer bits."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["stored_linear"]


def stored_linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Compute what the layer computes with its weight as it is stored; x (..., in) -> (..., out).

    Under autocast nothing is left to cast. Outside of it, in a figure or a validation in fp32, the weight is brought to
    the type of the input for the moment.
    """
    if torch.is_autocast_enabled(x.device.type):
        return F.linear(x, layer.weight, layer.bias)
    return F.linear(x, layer.weight.to(x.dtype), layer.bias)
