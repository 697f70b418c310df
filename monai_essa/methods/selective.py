# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Methods that train a selection of the network's own tensors: biases, norms, one component, all or none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _NormBase

from monai_essa.anatomy.blocks import BlockParts, Rows, patch_embeddings, transformer_blocks
from monai_essa.anatomy.parts import dead_parameters, encoder_layers, part_of, undone_layers
from monai_essa.methods.apla import APLALinear
from monai_essa.methods.method import check_value
from monai_essa.outside import Choice, switch

__all__ = ["BitFit", "ComponentTuning", "FullTuning", "HeadOnly", "NormTuning"]

_NORMS = (nn.LayerNorm, nn.GroupNorm, _NormBase)  # _NormBase: every batch and instance norm
_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}
_COMPONENTS = (*_PROJECTIONS, "o", "mlp_in", "mlp_out", "norms", "patch_embedding")


@dataclass(frozen=True)
class BitFit:
    """Bias tuning (arXiv 2106.10199, section 3): only the biases of the encoder's layers learn.

    These are the biases of linear layers, convolutions and norms. Position embeddings, class tokens and Swin's
    ``relative_position_bias_table`` do not count: the table is added to attention scores and not to the output of a
    layer. A bias that is undone by an instance norm without parameters is left out. A batch norm whose bias learns also
    updates its running statistics in training. Nothing has to be merged.

    Args:
        norms: True to train the weights of the normalisation layers too.

    Raises:
        TypeError: if ``norms`` is text.

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
        """Return the names of the encoder's biases, and with ``norms`` of the weights of its normalisation layers."""
        idle = {*dead_parameters(network), *(f"{path}.bias" for path in undone_layers(network))}
        biases = {
            name
            for name, _ in network.named_parameters()
            if name.rpartition(".")[2] == "bias" and name not in idle and part_of(network, name) == "encoder"
        }
        return biases | NormTuning().claims(network) if self.norms else biases

    def inject(self, network: nn.Module) -> set[str]:
        """Change nothing: the claimed tensors learn as they are."""
        return self.claims(network)


@dataclass(frozen=True)
class NormTuning:
    """Only weight and bias of the encoder's normalisation layers learn, including the final norm.

    These are layer, group, batch and instance norms with parameters. A batch norm that learns also updates its running
    statistics in training; they are part of the adapter file. Nothing has to be merged.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), NormTuning())
        >>> sum(p.numel() for p in net.parameters() if p.requires_grad)  # (2 blocks x 2 norms + 1) x 2 x 48
        480
    """

    def claims(self, network: nn.Module) -> set[str]:
        """Return the names of the parameters of the encoder's normalisation layers."""
        return {
            f"{path}.{name}"
            for path in encoder_layers(network, _NORMS)
            for name, _ in network.get_submodule(path).named_parameters()
        }

    def inject(self, network: nn.Module) -> set[str]:
        """Change nothing: the claimed tensors learn as they are."""
        return self.claims(network)


@dataclass(frozen=True)
class ComponentTuning:
    """One kind of layer learns in every block of the encoder, from its pretrained values (arXiv 2503.11335).

    If MONAI fuses queries, keys and values in one layer, only the rows of the chosen component learn, with their
    biases; merging puts them back.

    Args:
        component: ``"q"``, ``"k"``, ``"v"``, ``"o"`` (W_O, as ``APLA()``), ``"mlp_in"``, ``"mlp_out"``, ``"norms"``
            (as ``NormTuning()``) or ``"patch_embedding"``: the layer that makes tokens of voxels, without position
            embeddings. A CNN has only norms.

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
        """Return the names of weight and bias of each layer of this kind."""
        if self.component == "norms":
            return NormTuning().claims(network)
        return {name for rows in self._targets(network) for name in _own_parameters(network, rows.path)}

    def inject(self, network: nn.Module) -> set[str]:
        """Replace a layer by :class:`APLALinear` if only some of its rows learn; else change nothing."""
        if self.component == "norms":
            return self.claims(network)
        learning = set()
        for rows in self._targets(network):
            layer = network.get_submodule(rows.path)
            if rows.size == len(layer.weight):  # type: ignore[arg-type]
                learning |= _own_parameters(network, rows.path)
                continue
            part = APLALinear(layer, torch.tensor(rows.indices()))  # type: ignore[arg-type]
            network.set_submodule(rows.path, part)
            learning |= {f"{rows.path}.rows"} | ({f"{rows.path}.row_biases"} if part.row_biases is not None else set())
        return learning

    def _targets(self, network: nn.Module) -> list[Rows]:
        if self.component == "patch_embedding":
            return [_whole(network, path) for path in patch_embeddings(network)]
        blocks = [block for block in transformer_blocks(network) if block.role == "encoder"]
        if self.component in _PROJECTIONS:
            return [getattr(block, _PROJECTIONS[self.component]) for block in blocks]
        return [_whole(network, path) for block in blocks for path in self._paths(block)]

    def _paths(self, block: BlockParts) -> tuple[str, ...]:
        if self.component == "o":
            return (block.output,) if block.output else ()
        return block.mlp[:1] if self.component == "mlp_in" else block.mlp[1:]


@dataclass(frozen=True)
class FullTuning:
    """Train every parameter of the encoder that can learn; ``also_train`` decides on decoder and head as always.

    Fixed position embeddings (sine and cosine) and parameters that no forward pass reaches stay frozen.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), FullTuning())
        >>> net.norm.weight.requires_grad
        True
    """

    def claims(self, network: nn.Module) -> set[str]:
        """Return the names of the encoder's parameters that can learn."""
        fixed = dead_parameters(network)
        return {
            name
            for name, parameter in network.named_parameters()
            if parameter.requires_grad and name not in fixed and part_of(network, name) == "encoder"
        }

    def inject(self, network: nn.Module) -> set[str]:
        """Change nothing: the claimed tensors learn as they are."""
        return self.claims(network)


@dataclass(frozen=True)
class HeadOnly:
    """Train only what ``also_train`` names: a head or a decoder on a frozen encoder."""

    def claims(self, network: nn.Module) -> set[str]:
        """Claim no tensor."""
        return set()

    def inject(self, network: nn.Module) -> set[str]:
        """Change nothing."""
        return set()


def _whole(network: nn.Module, path: str) -> Rows:
    return Rows(path, 0, len(network.get_parameter(f"{path}.weight")))


def _own_parameters(network: nn.Module, path: str) -> set[str]:
    return {f"{path}.{name}" for name, _ in network.get_submodule(path).named_parameters(recurse=False)}
