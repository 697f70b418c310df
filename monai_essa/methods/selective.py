# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Methods that add no tensor and train a selection of the network's own: biases, norms, one component, all or none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
from monai.networks.blocks import PatchEmbed, PatchEmbeddingBlock
from torch.nn.modules.batchnorm import _NormBase

from monai_essa.anatomy.blocks import BlockParts, Rows, transformer_blocks
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
