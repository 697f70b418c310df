# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the parameter names of a network say: its encoder, decoder and head, and the layers of the encoder.

How MONAI's networks (1.5.2 and 1.6) name their parts; :mod:`monai_essa.anatomy.blocks` knows the parts of a block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn as nn
from monai.networks.blocks import TransformerBlock
from monai.networks.blocks.convolutions import Convolution
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SegResNet, SegResNetDS, SwinUNETR, UNet, ViT, ViTAutoEnc
from monai.networks.nets.segresnet_ds import SegResEncoder
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = [
    "check_images",
    "check_known",
    "dead_parameters",
    "divide_shape",
    "encoder_layers",
    "encoder_prefix",
    "encoder_trunk",
    "part_of",
    "undone_layers",
    "unwrapped",
]

_TOKENS = r"(patch_embedding|blocks|norm)\.|cls_token$"
_CLASSIFIER_CHILDREN = ("encoder", "pool", "head_norm", "head")
# Encoders that are no module of their own in their network are a Sequential in a classifier, with these children.
_GATHERED = ({"convInit", "down_layers"}, {"convInit", "dropout", "down_layers"}, {"model"})


def check_known(network: nn.Module) -> None:
    """Check that the parts of a network are known, by its class or a base of its class.

    Known are MONAI's networks with an encoder that this package can name, and what
    :func:`monai_essa.anatomy.classification_network` returns. Guessing would train or load the wrong tensors.

    Args:
        network: plain or adapted.

    Raises:
        TypeError: if it is of another class; the message lists those that are known.

    Example:
        >>> check_known(SegResNet(init_filters=8, blocks_down=(1, 1), blocks_up=(1,)))
    """
    _parts(network)


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network that ``torch.compile``, DataParallel or DistributedDataParallel wraps, or else itself.

    A wrapper puts ``_orig_mod.`` or ``module.`` before every name; adapters and weight files know the names within.

    Args:
        network: any module; it is not changed. Wrappers around wrappers are seen through too.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(torch.compile(net))) is net
        True
    """
    while True:
        if isinstance(network, DataParallel | DistributedDataParallel):
            network = network.module
        elif (compiled := network._modules.get("_orig_mod")) is not None:  # naming its class would import the compiler
            network = compiled
        else:
            return network


def encoder_prefix(network: nn.Module) -> str:
    """Return the prefix of the encoder's parameter names: ``"vit."``, ``"swinViT."``, or ``""`` for a bare encoder.

    Raises:
        TypeError: if the class of the network is unknown, as :func:`check_known` says.
    """
    return _parts(network).prefix


def part_of(network: nn.Module, name: str) -> str:
    """Tell whether a parameter belongs to the ``"encoder"``, the ``"decoder"`` or the ``"head"`` of its network.

    Raises:
        TypeError: if the class of the network is unknown, as :func:`check_known` says.

    Example:
        >>> net = UNETR(1, 2, 32, 4, 48, 96, 4, spatial_dims=2)
        >>> part_of(net, "vit.norm.weight"), part_of(net, "out.conv.conv.bias")
        ('encoder', 'head')
    """
    parts = _parts(network)
    if name.startswith(parts.prefix) and re.match(parts.encoder, name.removeprefix(parts.prefix)):
        return "encoder"
    return "head" if re.match(parts.head, name) else "decoder"


def encoder_layers(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> tuple[str, ...]:
    """List the paths of the encoder's layers of some classes that have parameters of their own and are used.

    Args:
        network: a MONAI network, plain or adapted.
        kinds: classes such as ``(nn.Linear, nn.Conv3d)``; subclasses count.

    Returns:
        Paths in the order of the network's modules.

    Raises:
        TypeError: if the class of the network is unknown, as :func:`check_known` says.

    Example:
        >>> net = SegResNet(init_filters=8, blocks_down=(1, 1), blocks_up=(1,))
        >>> encoder_layers(net, (nn.Conv3d,))[:2]
        ('convInit.conv', 'down_layers.0.1.conv1.conv')
    """
    check_known(network)
    dead = dead_parameters(network)
    return tuple(
        path
        for path, module in network.named_modules()
        if isinstance(module, kinds)
        and (own := [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)])
        and part_of(network, own[0]) == "encoder"
        and own[0] not in dead
    )


def undone_layers(network: nn.Module) -> frozenset[str]:
    """Name the convolutions whose scale and shift per channel an instance norm without parameters takes back at once.

    A bias there, or a factor on the output, changes nothing: MONAI's UNet is built so by default.

    Example:
        >>> net = UNet(2, 1, 2, channels=(4, 8), strides=(2,))
        >>> sorted(undone_layers(net))[0]
        'model.0.conv'
    """
    return frozenset(
        f"{path}.{conv}"
        for path, module in network.named_modules()
        for conv, norm in _convolutions_with_norms(module)
        if isinstance(norm, _InstanceNorm) and not norm.affine
    )


def dead_parameters(network: nn.Module) -> frozenset[str]:
    """Name the parameters that no forward pass reaches: MONAI's cross-attention parts in blocks built without it."""
    dead = tuple(
        f"{path}.{child}."
        for path, block in network.named_modules()
        if isinstance(block, TransformerBlock) and not block.with_cross_attention
        for child in ("norm_cross_attn", "cross_attn")
    )
    return frozenset(name for name, _ in network.named_parameters() if name.startswith(dead))


def encoder_trunk(network: nn.Module) -> Any:
    """Return the encoder that a network holds (``network.vit``, ``network.swinViT``), or the network itself."""
    return network.get_submodule(encoder_prefix(network).rstrip("."))


def check_images(images: Tensor, in_channels: int, spatial_dims: int) -> None:
    """Raise a ValueError unless the images are (B, in_channels, spatial...) with that many spatial axes."""
    if images.dim() != spatial_dims + 2 or images.shape[1] != in_channels:
        raise ValueError(
            f"expected images (B, {in_channels}, and {spatial_dims} spatial axes), got {tuple(images.shape)}; "
            f"build the network with the in_channels and spatial_dims of the data"
        )


def divide_shape(spatial_shape: Sequence[int], patch_size: Sequence[int], multiple: Sequence[int]) -> tuple[int, ...]:
    """Count the patches along each axis; ValueError unless the shape is a multiple of ``multiple``."""
    shape = tuple(spatial_shape)
    if len(shape) != len(multiple) or any(size < m or size % m for size, m in zip(shape, multiple, strict=True)):
        raise ValueError(
            f"expected a spatial shape that is a multiple of {tuple(multiple)}, got {shape}; "
            f"pad the images with DivisiblePadd(k={tuple(multiple)}) or crop them"
        )
    return tuple(size // patch for size, patch in zip(shape, patch_size, strict=True))


@dataclass(frozen=True)
class _Parts:
    """How a network class names its parts.

    Attributes:
        prefix: of all names of the encoder, and of nothing else; empty where the encoder is no module of its own.
        head: pattern for the start of a name of the output layer.
        encoder: pattern for the start of a name of the encoder, after the prefix. All else is the decoder, so that what
            a subclass adds is never taken for a part of the encoder.
    """

    prefix: str
    head: str
    encoder: str = ""


def _convolutions_with_norms(module: nn.Module) -> Iterator[tuple[str, nn.Module | None]]:
    if isinstance(module, Convolution):
        yield "conv", getattr(getattr(module, "adn", None), "N", None)
    if isinstance(module, UnetBasicBlock | UnetResBlock):
        yield from ((f"conv{i}.conv", getattr(module, f"norm{i}", None)) for i in (1, 2, 3))


def _parts(network: nn.Module) -> _Parts:
    for kind, parts in _PARTS.items():
        if isinstance(network, kind):
            return parts
    if _is_classifier(network):
        return _CLASSIFIER
    raise TypeError(
        f"expected a {', '.join(kind.__name__ for kind in _PARTS)} or the result of classification_network, "
        f"got {type(network).__name__}; pass the network itself, not a container around it, or make its class a "
        "subclass of the one that it extends"
    )


def _is_classifier(network: nn.Module) -> bool:
    """Tell by structure, since a classifier is of stock classes only and may come from a bundle's inference.yaml."""
    children = dict(network.named_children())
    if type(network) is not nn.Sequential or tuple(children) != _CLASSIFIER_CHILDREN:
        return False
    encoder = children["encoder"]
    gathered = type(encoder) is nn.Sequential and {name for name, _ in encoder.named_children()} in _GATHERED
    return gathered or isinstance(encoder, (ViT, SwinTransformer, SegResEncoder))


_PARTS: dict[type[nn.Module], _Parts] = {
    ViT: _Parts("", head=r"classification_head\.", encoder=_TOKENS),
    ViTAutoEnc: _Parts("", head=r"conv3d_transpose_1\.", encoder=_TOKENS),
    MaskedAutoEncoderViT: _Parts("", head=r"decoder_pred\.", encoder=_TOKENS),
    UNETR: _Parts("vit.", head=r"out\."),
    SwinUNETR: _Parts("swinViT.", head=r"out\."),
    SegResNet: _Parts("", head=r"conv_final\.", encoder=r"(convInit|down_layers)\."),
    SegResNetDS: _Parts("encoder.", head=r"up_layers\.\d+\.head\."),
    # Its levels are nested: each is (down, skip connection around the next level, up). The first "up" is the head.
    UNet: _Parts("", head=r"model\.2\.", encoder=r"model\.(?!(1\.submodule\.)*2\.)"),
}
_CLASSIFIER = _Parts("encoder.", head="")
