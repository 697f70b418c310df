# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Partial W_O in two matrix products whose results are scattered together: the form that ours is compared with.

The published code of APLA computes the outputs that learn and those that do not apart, and writes both into an empty
tensor. :class:`monai_essa.methods.apla.APLALinear` gives the same outputs and gradients from one product.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_essa.methods.apla import APLALinear

__all__ = ["TwoGemmLinear", "in_two_gemms"]


class TwoGemmLinear(nn.Module):
    """A linear layer split into output features that learn and output features that do not.

    Args:
        layer: gives the weights and says which output features learn; nothing is shared with it.

    Example:
        >>> layer = APLALinear(nn.Linear(4, 6), torch.tensor([0, 5]))
        >>> torch.allclose(TwoGemmLinear(layer)(torch.ones(1, 4)), layer(torch.ones(1, 4)))
        True
    """

    def __init__(self, layer: APLALinear) -> None:
        super().__init__()
        rest = torch.ones(len(layer.weight), dtype=torch.bool).index_fill(0, layer.columns.cpu(), False)
        frozen = rest.nonzero()[:, 0].to(layer.columns.device)
        self.columns: Tensor
        self.frozen_columns: Tensor
        self.register_buffer("columns", layer.columns)
        self.register_buffer("frozen_columns", frozen)
        self.rows = _copied(layer.rows, True)
        self.row_biases = None if layer.row_biases is None else _copied(layer.row_biases, True)
        self.frozen_rows = _copied(layer.weight[frozen], False)
        self.frozen_biases = None if layer.bias is None else _copied(layer.bias[frozen], False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute y = x W^T + b; x (..., in) -> (..., out)."""
        learned = F.linear(x, self.rows, self.row_biases)
        frozen = F.linear(x, self.frozen_rows, self.frozen_biases)
        y = torch.empty(
            *x.shape[:-1], len(self.columns) + len(self.frozen_columns), dtype=frozen.dtype, device=x.device
        )
        y.scatter_(-1, self.columns.expand_as(learned), learned)
        return y.scatter_(-1, self.frozen_columns.expand_as(frozen), frozen)


def in_two_gemms(module: nn.Module) -> nn.Module:
    """Put :class:`TwoGemmLinear` in the place of every partial W_O. In place; the same object is returned.

    Args:
        module: holds a network that ``APLA(columns=...)`` adapted.

    Raises:
        ValueError: if it has no partial W_O.
    """
    layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, APLALinear)}
    if not layers:
        raise ValueError("expected a network that APLA(columns=...) adapted, got one without a partial W_O")
    for path, layer in layers.items():
        module.set_submodule(path, TwoGemmLinear(layer))
    return module


def _copied(tensor: Tensor, learns: bool) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=learns)
