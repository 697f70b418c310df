# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Linear layers that do not learn, with their weight stored in fewer bits."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_essa.lean_marks import check_still_frozen

__all__ = ["stored_linear"]


def stored_linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Compute what the layer computes with its weight as it is stored; x (..., in) -> (..., out).

    Under autocast nothing is left to cast. Outside of it, in a figure or a validation in fp32, the weight is brought to
    the type of the input for the moment.

    Raises:
        RuntimeError: if the weight learns since it was stored.
    """
    check_still_frozen(layer)
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:  # which autocast leaves alone
        return F.linear(x, layer.weight, layer.bias)
    return F.linear(x, layer.weight.to(x.dtype), layer.bias)
