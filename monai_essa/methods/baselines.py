# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The two ends of the scale that parameter-efficient methods are measured against."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn as nn

from monai_essa.network_parts import dead_parameters, part_of

__all__ = ["FullTuning", "HeadOnly"]


@dataclass(frozen=True)
class FullTuning:
    """Train every parameter of the encoder that can learn; decoder and head follow ``also_train``, as for any method.

    Fixed position embeddings (sine and cosine) and parameters that no forward pass reaches stay frozen.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), FullTuning())
        >>> net.norm.weight.requires_grad
        True
    """

    def claims(self, network: nn.Module) -> set[str]:
        """Name the encoder's parameters that can learn."""
        fixed = dead_parameters(network)
        return {
            name
            for name, parameter in network.named_parameters()
            if parameter.requires_grad and name not in fixed and part_of(network, name) == "encoder"
        }

    def inject(self, network: nn.Module) -> set[str]:
        """Change nothing: what the method claims learns as it is."""
        return self.claims(network)


@dataclass(frozen=True)
class HeadOnly:
    """Train nothing but what ``also_train`` names: a frozen encoder under a trained head or decoder."""

    def claims(self, network: nn.Module) -> set[str]:
        """Claim no tensor."""
        return set()

    def inject(self, network: nn.Module) -> set[str]:
        """Change nothing."""
        return set()
