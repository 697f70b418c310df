# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Norm tuning: train the weights and biases of the normalisation layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn as nn
from torch.nn.modules.batchnorm import _NormBase

from monai_essa.network_parts import encoder_layers

__all__ = ["NormTuning"]

_NORMS = (nn.LayerNorm, nn.GroupNorm, _NormBase)  # _NormBase: every batch and instance norm


@dataclass(frozen=True)
class NormTuning:
    """Of the encoder only weight and bias of its normalisation layers learn, the final norm included.

    Layer, group, batch and instance norms count where they have parameters. A batch norm that learns also updates its
    running statistics in training, as in any training; they are part of the adapter file. Nothing has to be merged.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), NormTuning())
        >>> sum(p.numel() for p in net.parameters() if p.requires_grad)  # (2 blocks x 2 norms + 1) x 2 x 48
        480
    """

    def claims(self, network: nn.Module) -> set[str]:
        """Name the parameters of the encoder's normalisation layers."""
        return {
            f"{path}.{name}"
            for path in encoder_layers(network, _NORMS)
            for name, _ in network.get_submodule(path).named_parameters()
        }

    def inject(self, network: nn.Module) -> set[str]:
        """Change nothing: what the method claims learns as it is."""
        return self.claims(network)
