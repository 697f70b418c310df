# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read from the shapes of tensors with which arguments MONAI's class of an encoder has to be built to take them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["KEY_TENSORS", "Constructor", "constructor_of"]

Shapes = Mapping[str, torch.Size]
_HEAD_SIZE = 64  # features of a head in every public ViT
_RESNETS: dict[tuple[tuple[int, ...], bool], int] = {  # (blocks in each stage, with bottlenecks) -> depth
    ((1, 1, 1, 1), False): 10,
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
    ((3, 24, 36, 3), True): 200,
}


@dataclass(frozen=True)
class Constructor:
    """The class of a network and its arguments, as far as shapes tell them.

    Attributes:
        network: name in monai.networks.nets.
        arguments: of its constructor.
        assumed: sentences about what no shape tells.
    """

    network: str
    arguments: dict[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()


def constructor_of(shapes: Shapes) -> Constructor | None:
    """Return the constructor of the encoder whose tensors these are; None if no class of MONAI has such tensors.

    Args:
        shapes: by the names of MONAI's bare encoders (``blocks.0.attn.qkv.weight``); other tensors are ignored.

    Returns:
        The constructor: a ViT, SwinUNETR, SegResNet, SegResNetDS or ResNet.

    Example:
        >>> from monai.networks.nets import SegResNet
        >>> net = SegResNet(init_filters=8, blocks_down=(1, 2), blocks_up=(1,))
        >>> constructor_of({name: tensor.shape for name, tensor in net.state_dict().items()}).arguments
        {'spatial_dims': 3, 'in_channels': 1, 'init_filters': 8, 'blocks_down': [1, 2]}
    """
    return next((read(shapes) for first, read in _READERS.items() if first in shapes), None)


def _vit(shapes: Shapes) -> Constructor | None:
    hidden, channels, *patch = shapes[_VIT]
    depth = _count(shapes, r"blocks\.(\d+)\.attn\.qkv\.weight")
    if not depth:
        return None  # another network with patches, such as a Swin transformer
    arguments = {
        "spatial_dims": len(patch),
        "in_channels": channels,
        "patch_size": patch[0] if len(set(patch)) == 1 else patch,
        "hidden_size": hidden,
        "mlp_dim": shapes["blocks.0.mlp.linear1.weight"][0] if "blocks.0.mlp.linear1.weight" in shapes else 4 * hidden,
        "num_layers": depth,
        "num_heads": max(1, hidden // _HEAD_SIZE),
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
    }
    assumed = f"num_heads is {arguments['num_heads']} if a head has {_HEAD_SIZE} features, as in the public ViTs"
    return Constructor("ViT", arguments, (f"no tensor shows the number of heads: {assumed}; compare with the paper",))


def _swin_unetr(shapes: Shapes) -> Constructor:
    width, channels, *patch = shapes["patch_embed.proj.weight"]
    stages = range(1, 1 + _count(shapes, r"layers(\d)\.0\.blocks\.0\.norm1\.weight"))
    tables = [shapes[f"layers{stage}.0.blocks.0.attn.relative_position_bias_table"] for stage in stages]
    arguments = {
        "spatial_dims": len(patch),
        "in_channels": channels,
        "feature_size": width,
        "depths": [_count(shapes, rf"layers{stage}\.0\.blocks\.(\d+)\.norm1\.weight") for stage in stages],
        "num_heads": [table[1] for table in tables],
        "window_size": (round(tables[0][0] ** (1 / len(patch))) + 1) // 2,
        "use_v2": any(re.match(r"layers\dc\.", name) for name in shapes),
    }
    return Constructor("SwinUNETR", arguments)


def _segresnet(shapes: Shapes) -> Constructor:
    return Constructor("SegResNet", _convolution(shapes, _SEGRESNET) | {"blocks_down": _stages(shapes, r"down_layers")})


def _segresnet_ds(shapes: Shapes) -> Constructor:
    blocks = [
        _count(shapes, rf"layers\.{level}\.blocks\.(\d+)\.conv1\.weight")
        for level in range(_count(shapes, r"layers\.(\d+)\.blocks\.0\.conv1\.weight"))
    ]
    arguments = _convolution(shapes, _SEGRESNET_DS) | {"blocks_down": blocks}
    if "layers.0.blocks.0.norm1.running_mean" in shapes:
        return Constructor("SegResNetDS", arguments)
    assumed = "norm is 'instance' since there are no running means; group norms have the same tensors"
    return Constructor("SegResNetDS", arguments | {"norm": "instance"}, (f"{assumed}; compare with the paper",))


def _resnet(shapes: Shapes) -> Constructor | None:
    width, channels, *kernel = shapes["conv1.weight"]
    blocks = tuple(_count(shapes, rf"layer{stage}\.(\d+)\.conv1\.weight") for stage in range(1, 5))
    depth = _RESNETS.get((blocks, "layer1.0.conv3.weight" in shapes))
    if depth is None or width != 64:
        return None
    arguments = {
        "spatial_dims": len(kernel),
        "n_input_channels": channels,
        "conv1_t_size": kernel,
        "feed_forward": "fc.weight" in shapes,
        "shortcut_type": "B" if _has(shapes, r"layer\d\.0\.downsample\.0\.weight") else "A",
        "bias_downsample": _has(shapes, r"layer\d\.0\.downsample\.0\.bias"),
    }
    return Constructor(f"resnet{depth}", arguments)


def _convolution(shapes: Shapes, first: str) -> dict[str, Any]:
    width, channels, *kernel = shapes[first]
    return {"spatial_dims": len(kernel), "in_channels": channels, "init_filters": width}


def _stages(shapes: Shapes, root: str) -> list[int]:
    """Count the blocks of each stage, leaving out what lies between stages."""
    levels = _count(shapes, rf"{root}\.(\d+)\.\d+\.conv1\.conv\.weight")
    return [
        len({name for name in shapes if re.fullmatch(rf"{root}\.{level}\.\d+\.conv1\.conv\.weight", name)})
        for level in range(levels)
    ]


def _count(shapes: Shapes, pattern: str) -> int:
    return len({match[1] for name in shapes if (match := re.fullmatch(pattern, name))})


def _has(shapes: Collection[str], pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in shapes)


_VIT = "patch_embedding.patch_embeddings.weight"
_SEGRESNET = "convInit.conv.weight"
_SEGRESNET_DS = "conv_init.weight"
# By the tensor that only this encoder has.
_READERS: dict[str, Callable[[Shapes], Constructor | None]] = {
    _VIT: _vit,
    "layers1.0.blocks.0.attn.relative_position_bias_table": _swin_unetr,
    _SEGRESNET: _segresnet,
    _SEGRESNET_DS: _segresnet_ds,
    "layer1.0.conv1.weight": _resnet,
}
KEY_TENSORS: Sequence[str] = tuple(_READERS)
"""Tensors by whose names an encoder is recognised."""
