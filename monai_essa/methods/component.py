# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The component study of the APLA paper: train one kind of layer and nothing else.

Sorkhei et al., "APLA: A Simple Adaptation Method for Vision Transformers", arXiv 2503.11335.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
from monai.networks.blocks import PatchEmbed, PatchEmbeddingBlock

from monai_essa.blocks import BlockParts, Rows, transformer_blocks
from monai_essa.methods.apla import APLALinear
from monai_essa.methods.method import check_value
from monai_essa.methods.norm_tuning import NormTuning
from monai_essa.network_parts import encoder_layers
from monai_essa.outside import Choice

__all__ = ["ComponentTuning"]

_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}
_COMPONENTS = (*_PROJECTIONS, "o", "mlp_in", "mlp_out", "norms", "patch_embedding")


@dataclass(frozen=True)
class ComponentTuning:
    """Of the encoder exactly one kind of layer learns, in every block, from its pretrained values (arXiv 2503.11335).

    Where MONAI fuses queries, keys and values in one layer, only the rows of the one that is asked for learn, with
    their biases; merging puts them back.

    Args:
        component: ``"q"``, ``"k"``, ``"v"``, ``"o"`` (W_O, as ``APLA()``), ``"mlp_in"``, ``"mlp_out"``, ``"norms"``
            (as ``NormTuning()``) or ``"patch_embedding"``: the layer that makes tokens of voxels, without position
            embeddings. A CNN has none of these but norms.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> net = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> adapt(net, ComponentTuning("v")).blocks[0].attn.qkv.rows.shape  # 48 of 144 output features
        torch.Size([48, 48])
    """

    component: str

    def __post_init__(self) -> None:
        check_value(self, "component", Choice(_COMPONENTS))

    def claims(self, network: nn.Module) -> set[str]:
        """Name weight and bias of each layer of this kind."""
        if self.component == "norms":
            return NormTuning().claims(network)
        return {name for rows in self._targets(network) for name in _own_parameters(network, rows.path)}

    def inject(self, network: nn.Module) -> set[str]:
        """Replace a layer by :class:`APLALinear` where only some of its rows learn; else change nothing."""
        if self.component == "norms":
            return self.claims(network)
        learning = set()
        for rows in self._targets(network):
            layer = network.get_submodule(rows.path)
            if rows.stop - rows.start == len(layer.weight):  # type: ignore[arg-type]
                learning |= _own_parameters(network, rows.path)
                continue
            part = APLALinear(layer, torch.arange(rows.start, rows.stop))  # type: ignore[arg-type]
            network.set_submodule(rows.path, part)
            learning |= {f"{rows.path}.rows"} | ({f"{rows.path}.row_biases"} if part.row_biases is not None else set())
        return learning

    def _targets(self, network: nn.Module) -> list[Rows]:
        if self.component == "patch_embedding":
            return [_whole(network, path) for path in _patch_embeddings(network)]
        blocks = [block for block in transformer_blocks(network) if block.role == "encoder"]
        if self.component in _PROJECTIONS:
            return [getattr(block, _PROJECTIONS[self.component]) for block in blocks]
        return [_whole(network, path) for block in blocks for path in self._paths(block)]

    def _paths(self, block: BlockParts) -> tuple[str, ...]:
        if self.component == "o":
            return (block.output,) if block.output else ()
        return block.mlp[:1] if self.component == "mlp_in" else block.mlp[1:]


def _whole(network: nn.Module, path: str) -> Rows:
    return Rows(path, 0, len(network.get_parameter(f"{path}.weight")))


def _own_parameters(network: nn.Module, path: str) -> set[str]:
    return {f"{path}.{name}" for name, _ in network.get_submodule(path).named_parameters(recurse=False)}


def _patch_embeddings(network: nn.Module) -> list[str]:
    """The linear layer or convolution within MONAI's patch embeddings: ViT's "conv" and "perceptron", and Swin's."""
    kinds = PatchEmbeddingBlock, PatchEmbed
    homes = tuple(f"{path}." for path, module in network.named_modules() if isinstance(module, kinds))
    layers = encoder_layers(network, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return [path for path in layers if path.startswith(homes)]
