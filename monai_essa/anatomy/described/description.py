# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Encoders that MONAI does not have, described once by whoever uses them.

A description says where the parts of an encoder are. It is passed as ``anatomy=`` and kept on the network, and from
then on the methods, objectives and adapter files treat the network as one of MONAI's. Nothing is recognised by the name
of a class, nothing is registered, and no file ever brings a description along: whoever loads an adapter passes it
again, and another one is refused.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.nn as nn

from monai_essa.anatomy.parts import DESCRIPTION, NetworkParts, encoder_trunk

__all__ = [
    "BlockDescription",
    "EncoderDescription",
    "MapDescription",
    "TokenDescription",
    "described",
    "described_blocks",
    "description_facts",
    "is_described",
    "timm_vit",
    "token_grid",
]


@dataclass(frozen=True)
class BlockDescription:
    """Where the parts of a transformer block are, as paths from the block.

    Attributes:
        paths: regular expression, matched in full against the paths of the blocks from the encoder.
        qkv: the linear layer of queries, keys and values, or the three of them.
        output: the output projection of the attention.
        mlp: the two linear layers of the MLP; empty if it has other parts.
        norms: the normalisation layers.
        heads: path of the attribute with the number of heads, if one layer computes (query, key, value) of the first
            head, then those of the second, and so on; empty if it computes all queries, then all keys and all values.

    The block has to call its layers as modules. One that reads their weights itself, as torch's
    ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer`` do, would not notice that a method has replaced them.
    """

    paths: str
    qkv: tuple[str, ...]
    output: str
    mlp: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    heads: str = ""

    def __post_init__(self) -> None:
        _without_lists(self)


@dataclass(frozen=True)
class TokenDescription:
    """An encoder that keeps one sequence of tokens, whose blocks attend over all of them; paths from the encoder.

    It computes ``final_norm(blocks(before_blocks([prefix, patches + positions])))``. An image of another size has its
    positions interpolated.

    Attributes:
        patch_embedding: the convolution that makes tokens of patches; its stride is its kernel.
        grid: attribute with the token grid that the positions were made for.
        positions: parameter (1, N, D), or (1, P + N, D) with a position for each of the P prefix tokens in front; empty
            if the encoder has none.
        prefix_tokens: parameters (1, n, D) in front of the patches, the class token first; those that are None on the
            network are left out.
        before_blocks: modules that all tokens pass before the first block, in order.
        final_norm: the norm behind the last block.
        antialias: whether positions are resampled with antialiasing, as timm does.
    """

    patch_embedding: str
    grid: str
    positions: str = ""
    prefix_tokens: tuple[str, ...] = ()
    before_blocks: tuple[str, ...] = ()
    final_norm: str = ""
    antialias: bool = False

    def __post_init__(self) -> None:
        _without_lists(self)


@dataclass(frozen=True)
class MapDescription:
    """An encoder that returns a feature map (B, channels, spatial...), or a list of them with the deepest one last.

    Attributes:
        in_channels: image channels.
        channels: channels of the deepest map.
        stride: voxels between neighbouring positions of the deepest map along each axis.
        method: of the encoder, called with the images.
    """

    in_channels: int
    channels: int
    stride: tuple[int, ...]
    method: str = "forward"

    def __post_init__(self) -> None:
        _without_lists(self)


@dataclass(frozen=True)
class EncoderDescription:
    r"""What this package has to know of an encoder that is not one of MONAI's.

    Attributes:
        output: what comes out of the encoder, :class:`TokenDescription` or :class:`MapDescription`.
        blocks: the transformer blocks; None for an encoder without attention.
        prefix: of the names of all tensors of the encoder, such as ``"image_encoder."``; empty if it is the network.
        head: regular expression for the start of the names, after the prefix, that are not the encoder's but those of a
            classifier behind it. What is outside the prefix counts as the decoder.

    Example:
        >>> from monai_essa import adapt
        >>> from monai_essa.methods import LoRA
        >>> class Own(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stem = nn.Conv2d(1, 8, 4, 4)
        ...         self.neck = nn.Conv2d(8, 8, 3, padding=1)
        ...     def forward(self, x):
        ...         return self.neck(self.stem(x))
        >>> anatomy = EncoderDescription(MapDescription(in_channels=1, channels=8, stride=(4, 4)))
        >>> net = adapt(Own(), LoRA(rank=2, targets=("conv",)), anatomy=anatomy)
        >>> sorted(name for name, p in net.named_parameters() if p.requires_grad)[:2]
        ['neck.lora_A', 'neck.lora_B']
    """

    output: TokenDescription | MapDescription
    blocks: BlockDescription | None = None
    prefix: str = ""
    head: str = ""

    def parts(self, network: nn.Module) -> NetworkParts:
        """Return the row that the table of network classes would have for the network."""
        return NetworkParts(
            type(network),
            "described",
            prefix=self.prefix,
            head=re.escape(self.prefix) + f"(?:{self.head})" if self.head else "(?!)",
            encoder=f"(?!{self.head})" if self.head else "",
            token_grid=token_grid if isinstance(self.output, TokenDescription) else None,
        )


def timm_vit() -> EncoderDescription:
    """Describe timm's ``VisionTransformer``, with which DINOv2, MAE, CLIP and supervised ViTs are published.

    LayerScale, register tokens, query and key norms and a norm in front of the blocks are part of it. timm itself is
    not imported; build the network with it, with ``patch_drop_rate`` 0.

    Example:
        >>> timm_vit().blocks.output
        'attn.proj'
    """
    return EncoderDescription(
        output=TokenDescription(
            patch_embedding="patch_embed.proj",
            grid="patch_embed.grid_size",
            positions="pos_embed",
            prefix_tokens=("cls_token", "reg_token"),
            before_blocks=("pos_drop", "norm_pre"),
            final_norm="norm",
            antialias=True,
        ),
        blocks=BlockDescription(
            r"blocks\.\d+", ("attn.qkv",), "attn.proj", mlp=("mlp.fc1", "mlp.fc2"), norms=("norm1", "norm2")
        ),
        head=r"(head|fc_norm|attn_pool)\.",
    )


def described(network: nn.Module) -> tuple[EncoderDescription, str] | None:
    """Return the description of a network, or of the encoder in a classifier, and the prefix of the encoder's names."""
    kept: EncoderDescription | None = vars(network).get(DESCRIPTION)
    if kept is not None:
        return kept, kept.prefix
    encoder = network._modules.get("encoder") if type(network) is nn.Sequential else None
    inner: EncoderDescription | None = None if encoder is None else vars(encoder).get(DESCRIPTION)
    return None if inner is None else (inner, "encoder.")


def is_described(network: nn.Module) -> bool:
    """Tell whether a network itself has a description."""
    return DESCRIPTION in vars(network)


def described_blocks(network: nn.Module, anatomy: EncoderDescription, prefix: str) -> Iterator[str]:
    """Yield the paths of the transformer blocks in the order of the network's modules."""
    if anatomy.blocks is not None:
        for path, _ in network.named_modules():
            if path.startswith(prefix) and re.fullmatch(anatomy.blocks.paths, path.removeprefix(prefix)):
                yield path


def description_facts(network: nn.Module) -> dict[str, str]:
    """Return the values of a network's description as text by name; empty for a network of MONAI.

    Where the encoder stands in its network is left out: an adapter moves between an encoder and a network with it.
    """
    found = described(network)
    if found is None:
        return {}
    values = {"output": found[0].output, "blocks": found[0].blocks}
    return {
        f"description {part}.{name}": f"{type(value).__name__} {text!r}"
        for part, value in values.items()
        if value is not None
        for name, text in dataclasses.asdict(value).items()
    }


def token_grid(network: nn.Module) -> tuple[int, ...]:
    """Return the grid that the positions of a described network were made for."""
    found: Any = described(network)
    return tuple(operator.attrgetter(found[0].output.grid)(encoder_trunk(network)))


def _without_lists(parts: Any) -> None:
    """Store lists as tuples, so that a description from YAML equals one from Python."""
    for name, value in vars(parts).items():
        if isinstance(value, list):
            object.__setattr__(parts, name, tuple(value))
