# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Where MONAI keeps the parts of a transformer block.

Parts are found by the class of the attention module (MONAI 1.5.2 and 1.6) and never by name alone, because names
mislead: a child may be an ``nn.Identity`` placeholder, and MONAI 1.5 builds a cross-attention that no forward pass
calls.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.nn as nn
from monai.networks.blocks import PatchEmbed, PatchEmbeddingBlock, TransformerBlock
from monai.networks.blocks.crossattention import CrossAttentionBlock
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets.swin_unetr import SwinTransformerBlock, WindowAttention

from monai_essa.anatomy.described.description import EncoderDescription, TokenDescription, described, described_blocks
from monai_essa.anatomy.parts import check_known, dead_parameters, encoder_layers, encoder_prefix, part_of

__all__ = [
    "BlockParts",
    "Rows",
    "keeps_one_sequence",
    "patch_embeddings",
    "patch_voxels",
    "self_attention_block",
    "transformer_blocks",
]

_ATTENTION = (SABlock, CrossAttentionBlock, WindowAttention)
_SEPARATE = ("to_q", "to_k", "to_v")


@dataclass(frozen=True)
class Rows:
    """Rows ``start:stop`` of ``weight`` and ``bias`` of the linear layer at ``path``, that is, output features.

    Where an encoder lays out queries, keys and values head by head, the rows are those of the first head, and the same
    range of each following group of ``every`` rows belongs to them.

    Attributes:
        path: of the layer.
        start: the first row.
        stop: the row after the last.
        groups: how many ranges there are.
        every: rows from one range to the next, if there are several.
    """

    path: str
    start: int
    stop: int
    groups: int = 1
    every: int = 0

    @property
    def size(self) -> int:
        """Number of rows."""
        return (self.stop - self.start) * self.groups

    def indices(self) -> list[int]:
        """List the rows in order.

        Example:
            >>> Rows("qkv", 2, 4, groups=2, every=6).indices()
            [2, 3, 8, 9]
        """
        return [self.every * group + row for group in range(self.groups) for row in range(self.start, self.stop)]


@dataclass(frozen=True)
class BlockParts:
    """One attention layer and the parts around it, each as a full path from the network.

    Attributes:
        path: the transformer block, or the attention module itself if it is not in a transformer block.
        role: ``"encoder"`` or ``"decoder"``.
        query: rows that compute the queries; ``key`` and ``value`` likewise. A fused qkv holds them in that order.
        output: the output projection W_O; None if the block was built without one.
        mlp: the two linear layers of the MLP, or empty.
        norms: the normalisation layers that the forward pass uses.
    """

    path: str
    role: str
    query: Rows
    key: Rows
    value: Rows
    output: str | None
    mlp: tuple[str, ...]
    norms: tuple[str, ...]


def transformer_blocks(network: nn.Module) -> tuple[BlockParts, ...]:
    """List the attention blocks of a network in the order of its modules, without those that it does not use.

    Args:
        network: a MONAI network or a described one, plain or adapted.

    Returns:
        One :class:`BlockParts` for each attention layer that the forward pass uses; empty for a CNN.

    Raises:
        TypeError: if the class of the network is unknown, or if a transformer block holds an unknown attention class.

    Example:
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> [block.output for block in transformer_blocks(net)]
        ['blocks.0.attn.out_proj', 'blocks.1.attn.out_proj']
    """
    check_known(network)
    if (found := described(network)) is not None:
        return tuple(_as_described(network, path, found[0]) for path in described_blocks(network, *found))
    dead = dead_parameters(network)
    return tuple(
        _describe(network, path, attention)
        for path, attention in network.named_modules()
        if _is_attention(path, attention) and not _is_dead(path, attention, dead)
    )


def keeps_one_sequence(network: nn.Module) -> bool:
    """Tell whether the description of a network says that its blocks attend over one sequence of tokens."""
    found = described(network)
    return found is not None and isinstance(found[0].output, TokenDescription)


def patch_voxels(network: nn.Module) -> int:
    """Count the voxels of a patch of a ViT, or of a network with one.

    Args:
        network: a network whose encoder has a patch embedding, plain or adapted.

    Example:
        >>> from monai.networks.nets import ViT
        >>> patch_voxels(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4))
        4096
    """
    if described(network) is not None:
        return math.prod(network.get_parameter(f"{patch_embeddings(network)[0]}.weight").shape[2:])
    embedding: Any = network.get_submodule(encoder_prefix(network) + "patch_embedding")
    if embedding.proj_type == "conv":
        return math.prod(embedding.patch_embeddings.weight.shape[2:])
    return math.prod(embedding.patch_embeddings[0].axes_lengths.values())


def patch_embeddings(network: nn.Module) -> tuple[str, ...]:
    """List the layers of the encoder that make tokens of voxels: a linear layer or a convolution.

    Args:
        network: a MONAI network, plain or adapted.

    Returns:
        Paths of the layers; empty for a CNN.

    Example:
        >>> from monai.networks.nets import ViT
        >>> patch_embeddings(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4))
        ('patch_embedding.patch_embeddings',)
    """
    if (found := described(network)) is not None:
        output = found[0].output
        return (found[1] + output.patch_embedding,) if isinstance(output, TokenDescription) else ()
    kinds = PatchEmbeddingBlock, PatchEmbed
    homes = tuple(f"{path}." for path, module in network.named_modules() if isinstance(module, kinds))
    layers = encoder_layers(network, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return tuple(path for path in layers if path.startswith(homes))


def self_attention_block(hidden_size: int, num_heads: int, epsilon: float) -> TransformerBlock:
    """Build MONAI's transformer block without the cross-attention that it would build and not use.

    DistributedDataParallel would wait for gradients of these parameters.

    Args:
        hidden_size: width of the tokens; the MLP is 4 times as wide.
        num_heads: attention heads.
        epsilon: of both norms.
    """
    block = TransformerBlock(hidden_size, 4 * hidden_size, num_heads, qkv_bias=True, use_flash_attention=True)
    block.register_module("norm_cross_attn", nn.Identity())
    block.register_module("cross_attn", nn.Identity())
    block.norm1.eps = block.norm2.eps = epsilon
    return block


def _is_attention(path: str, module: nn.Module) -> bool:
    if isinstance(module, (TransformerBlock, SwinTransformerBlock)) and not isinstance(module.attn, _ATTENTION):
        raise TypeError(
            f"block '{path}' holds the attention class {type(module.attn).__name__}, which is unknown; "
            f"known are {', '.join(kind.__name__ for kind in _ATTENTION)}"
        )
    return isinstance(module, _ATTENTION)


def _is_dead(path: str, attention: nn.Module, dead: frozenset[str]) -> bool:
    return any(f"{path}.{name}" in dead for name, _ in attention.named_parameters())


def _describe(network: nn.Module, path: str, attention: nn.Module) -> BlockParts:
    parent_path = path.rpartition(".")[0]
    parent = network.get_submodule(parent_path)
    in_block = isinstance(parent, (TransformerBlock, SwinTransformerBlock))
    crossing = isinstance(attention, CrossAttentionBlock)
    query, key, value = _projections(path, attention)
    output = "proj" if isinstance(attention, WindowAttention) else "out_proj"
    return BlockParts(
        path=parent_path if in_block and not crossing else path,
        role="decoder" if part_of(network, path + ".") == "decoder" else "encoder",
        query=query,
        key=key,
        value=value,
        output=None if isinstance(getattr(attention, output), nn.Identity) else f"{path}.{output}",
        mlp=(f"{parent_path}.mlp.linear1", f"{parent_path}.mlp.linear2") if in_block and not crossing else (),
        norms=tuple(f"{parent_path}.{name}" for name in _norms(crossing)) if in_block else (),
    )


def _as_described(network: nn.Module, path: str, anatomy: EncoderDescription) -> BlockParts:
    parts: Any = anatomy.blocks
    query, key, value = _described_projections(network, path, anatomy)
    return BlockParts(
        path=path,
        role="encoder",
        query=query,
        key=key,
        value=value,
        output=f"{path}.{parts.output}",
        mlp=tuple(f"{path}.{layer}" for layer in parts.mlp),
        norms=tuple(f"{path}.{norm}" for norm in parts.norms),
    )


def _described_projections(network: nn.Module, path: str, anatomy: EncoderDescription) -> tuple[Rows, Rows, Rows]:
    parts: Any = anatomy.blocks
    layers = [f"{path}.{layer}" for layer in parts.qkv]
    counts = [network.get_parameter(f"{layer}.weight").shape[0] for layer in layers]
    if len(layers) == 3:
        query, key, value = (Rows(layer, 0, count) for layer, count in zip(layers, counts, strict=True))
        return query, key, value
    heads = operator.attrgetter(parts.heads)(network.get_submodule(path)) if parts.heads else 1
    width, every = counts[0] // (3 * heads), counts[0] // heads
    query, key, value = (Rows(layers[0], i * width, (i + 1) * width, heads, every % counts[0]) for i in range(3))
    return query, key, value


def _norms(crossing: bool) -> Iterator[str]:
    yield from ("norm_cross_attn",) if crossing else ("norm1", "norm2")


def _projections(path: str, attention: nn.Module) -> tuple[Rows, Rows, Rows]:
    fused = getattr(attention, "qkv", None)
    if fused is not None and not isinstance(fused, nn.Identity):
        width = fused.weight.shape[0] // 3
        query, key, value = (Rows(f"{path}.qkv", i * width, (i + 1) * width) for i in range(3))
        return query, key, value
    widths = [attention.get_parameter(f"{name}.weight").shape[0] for name in _SEPARATE]
    query, key, value = (Rows(f"{path}.{name}", 0, width) for name, width in zip(_SEPARATE, widths, strict=True))
    return query, key, value
