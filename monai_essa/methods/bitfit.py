# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""BitFit: train the biases.

Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
arXiv 2106.10199.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn as nn

from monai_essa.methods.norm_tuning import NormTuning
from monai_essa.network_parts import dead_parameters, part_of, undone_layers
from monai_essa.switch import switch

__all__ = ["BitFit"]


@dataclass(frozen=True)
class BitFit:
    """Bias tuning (arXiv 2106.10199, section 3): of the encoder only the biases of its layers learn.

    Biases of linear layers, convolutions and norms count. Position embeddings and class tokens are no biases; Swin's
    ``relative_position_bias_table`` is none either: it is added to attention scores, not to the output of a layer.
    Left out is a bias that changes nothing, because an instance norm without parameters takes it back. A batch norm
    whose bias learns updates its running statistics in training too. Nothing has to be merged.

    Args:
        norms: the weights of the normalisation layers learn as well.

    Raises:
        TypeError: if norms is a text.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), BitFit())
        >>> net.blocks[0].mlp.linear1.bias.requires_grad, net.blocks[0].mlp.linear1.weight.requires_grad
        (True, False)
    """

    norms: bool = False

    def __post_init__(self) -> None:
        switch("norms", self.norms)

    def claims(self, network: nn.Module) -> set[str]:
        """Name the biases of the encoder, and with ``norms`` the weights of its normalisation layers."""
        idle = {*dead_parameters(network), *(f"{path}.bias" for path in undone_layers(network))}
        biases = {
            name
            for name, _ in network.named_parameters()
            if name.rpartition(".")[2] == "bias" and name not in idle and part_of(network, name) == "encoder"
        }
        return biases | NormTuning().claims(network) if self.norms else biases

    def inject(self, network: nn.Module) -> set[str]:
        """Change nothing: what the method claims learns as it is."""
        return self.claims(network)
