# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""AdaptFormer: a small bottleneck beside the MLP of every transformer block.

Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", arXiv 2205.13535.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_essa.anatomy.blocks import transformer_blocks
from monai_essa.methods.method import NotMergeable, adopt, check_above_zero, check_dropout, check_value, original_of
from monai_essa.outside import Number

__all__ = ["AdaptFormer", "AdaptFormerMLP"]

_ADDED = ("adaptformer_down", "adaptformer_down_bias", "adaptformer_up", "adaptformer_up_bias")


@dataclass(frozen=True)
class AdaptFormer:
    r"""AdaptFormer (arXiv 2205.13535, section 3.2): a bottleneck parallel to the MLP of every encoder block.

    .. math:: y = MLP(x) + s \, (drop(ReLU(x W_{down} + b_{down})) W_{up} + b_{up})

    with x the normalised input of the MLP, as in the paper's formula (its official code uses x before the norm).
    :math:`W_{down}` starts Kaiming-uniform, :math:`W_{up}` and both biases start at zero, so that the network starts at
    its base. Everything else stays frozen. It cannot be merged because of the ReLU: export the adapted network.

    Args:
        bottleneck: width of the bottleneck; 64 as in the paper.
        scale: s, the weight of the bottleneck's output; 0.1 as in the paper.
        dropout: share of the bottleneck that is dropped in training; 0.1 as in the official code, while the paper's
            formula has no dropout.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), AdaptFormer(8))
        >>> sum(p.numel() for p in net.parameters() if p.requires_grad)  # 2 blocks x (8 x 48 + 8 + 48 x 8 + 48)
        1648
    """

    bottleneck: int = 64
    scale: float = 0.1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_value(self, "bottleneck", Number(1, whole=True))
        check_above_zero(self, "scale")
        check_dropout(self)

    def claims(self, network: nn.Module) -> set[str]:
        """Return the names of the tensors that are added to the MLP of every encoder block."""
        return {f"{path}.{name}" for path in _mlps(network) for name in _ADDED}

    def inject(self, network: nn.Module) -> set[str]:
        """Replace each MLP by :class:`AdaptFormerMLP` and return the names of its new tensors."""
        for path, first in _mlps(network).items():
            layer = AdaptFormerMLP(network.get_submodule(path), first, self.bottleneck, self.scale, self.dropout)
            network.set_submodule(path, layer)
        return self.claims(network)


class AdaptFormerMLP(nn.Module):
    """An MLP with a bottleneck beside it; the MLP's children keep their names.

    The four tensors that it adds are parameters and not layers, so that other methods do not match them.

    Args:
        mlp: the pretrained MLP; its tensors are shared, not copied.
        first: name of its first linear layer, which reads the tokens.
        bottleneck: width of the bottleneck.
        scale: weight of the bottleneck's output.
        dropout: of the bottleneck, in training only.

    Example:
        >>> from monai.networks.blocks import MLPBlock
        >>> layer = AdaptFormerMLP(MLPBlock(4, 16), "linear1", bottleneck=2, scale=0.1)
        >>> layer(torch.ones(1, 3, 4)).shape, layer.adaptformer_down.shape, layer.adaptformer_up.shape
        (torch.Size([1, 3, 4]), torch.Size([2, 4]), torch.Size([4, 2]))
    """

    def __init__(self, mlp: nn.Module, first: str, bottleneck: int, scale: float, dropout: float = 0.0) -> None:
        adopt(self, mlp)
        self.kind = type(mlp)
        weight = mlp.get_parameter(f"{first}.weight")
        width = weight.shape[1]
        self.adaptformer_scale = scale
        self.adaptformer_dropout = dropout
        self.adaptformer_down = nn.Parameter(weight.new_empty(bottleneck, width))
        self.adaptformer_down_bias = nn.Parameter(weight.new_zeros(bottleneck))
        self.adaptformer_up = nn.Parameter(weight.new_zeros(width, bottleneck))
        self.adaptformer_up_bias = nn.Parameter(weight.new_zeros(width))
        nn.init.kaiming_uniform_(self.adaptformer_down, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute MLP(x) plus the scaled bottleneck; x (..., D) -> (..., D)."""
        hidden = F.relu(F.linear(x, self.adaptformer_down, self.adaptformer_down_bias))  # (..., bottleneck)
        hidden = F.dropout(hidden, self.adaptformer_dropout, self.training)
        update = F.linear(hidden, self.adaptformer_up, self.adaptformer_up_bias)
        # The MLP is rebuilt from the current layers, because a copy kept here would go stale. Its hooks run on self.
        return self.plain().forward(x) + self.adaptformer_scale * update

    def plain(self) -> nn.Module:
        """Return the pretrained MLP, sharing its tensors."""
        return original_of(self, self.kind, (*_ADDED, "kind", "adaptformer_scale", "adaptformer_dropout"))

    def merged(self) -> NoReturn:
        """Refuse: no plain MLP computes this."""
        raise NotMergeable(
            "AdaptFormer cannot be merged: its bottleneck has a ReLU of its own; trace or torch.export the adapted "
            "network in eval mode, it is an ordinary nn.Module"
        )

    def extra_repr(self) -> str:
        """Return the size of the bottleneck, its weight and its dropout."""
        size = f"bottleneck={len(self.adaptformer_down)}, scale={self.adaptformer_scale}"
        return f"{size}, dropout={self.adaptformer_dropout}"


def _mlps(network: nn.Module) -> dict[str, str]:
    """Return the path of each MLP of the encoder and the name of its first layer."""
    layers = [(block, *block.mlp[0].rpartition(".")) for block in transformer_blocks(network) if block.mlp]
    return {path: first for block, path, _, first in layers if block.role == "encoder" and path != block.path}
