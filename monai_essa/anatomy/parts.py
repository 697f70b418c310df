# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Where the encoder, decoder and head of MONAI's networks (1.5.2 and 1.6) are: one table row for each network class.

:mod:`monai_essa.anatomy.blocks` knows the parts of a transformer block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn as nn
from monai.networks.blocks import TransformerBlock
from monai.networks.blocks.convolutions import Convolution
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock
from monai.networks.nets import (
    UNETR,
    DenseNet,
    MaskedAutoEncoderViT,
    ResNet,
    SegResNet,
    SegResNetDS,
    SwinUNETR,
    UNet,
    ViT,
    ViTAutoEnc,
)
from monai.networks.nets.segresnet_ds import SegResEncoder
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = [
    "DESCRIPTION",
    "NETWORK_PARTS",
    "NetworkParts",
    "check_images",
    "check_known",
    "dead_parameters",
    "decoder_pattern",
    "divide_shape",
    "encoder_layers",
    "encoder_prefix",
    "encoder_trunk",
    "layers_read_directly",
    "part_of",
    "parts_of",
    "undone_layers",
    "unwrapped",
]

DESCRIPTION = "_monai_essa_anatomy"
"""Attribute of a network, and of its encoder, that holds the description which :func:`describe` keeps there."""
_TOKENS = r"(patch_embedding|blocks|norm)\.|cls_token$"
_CLASSIFIER_CHILDREN = ("encoder", "pool", "head_norm", "head")
# Encoders that are no single module with a forward pass become a Sequential with these children, and others, in a
# classifier.
_GATHERED = ({"convInit", "down_layers"}, {"model"}, {"conv1", "bn1", "layer1", "layer4"}, {"conv0", "denseblock1"})


@dataclass(frozen=True)
class NetworkParts:
    """What this package knows of a network class; its subclasses are known with it.

    Attributes:
        kind: the class.
        layout: how the encoder is called: a key of the table of views in :mod:`monai_essa.anatomy.encoders`; empty if
            nothing can be made of it.
        prefix: of all names of the encoder, and of no others; empty if the encoder is not a module of its own.
        head: pattern for the start of the names of the output layer.
        encoder: pattern for the start of the names of the encoder, after the prefix. Everything else is the decoder, so
            that what a subclass adds is never taken for a part of the encoder.
        output: path of the output layer, which reads the features of the decoder; empty if the network has no decoder
            that can predict an image.
        token_grid: reads the grid that the position embeddings were made for; None if the network does not keep it.
        runs_alone: True if the encoder has a forward pass of its own, so that it can be cut out of the network.
        hidden_states: True if the forward pass returns (output, outputs of the blocks).
    """

    kind: type[nn.Module]
    layout: str
    prefix: str = ""
    head: str = ""
    encoder: str = ""
    output: str = ""
    token_grid: Callable[[Any], Iterable[int]] | None = None
    runs_alone: bool = True
    hidden_states: bool = False


def _divided_grid(network: Any) -> Iterable[int]:
    return (image // patch for image, patch in zip(network.img_size, network.patch_size, strict=True))


# A new class is a new row; a subclass of a class goes before it.
NETWORK_PARTS: tuple[NetworkParts, ...] = (
    NetworkParts(ViT, "tokens", head=r"classification_head\.", encoder=_TOKENS, hidden_states=True),
    NetworkParts(
        UNETR, "tokens", prefix="vit.", head=r"out\.", output="out", token_grid=lambda network: network.feat_size
    ),
    NetworkParts(
        ViTAutoEnc,
        "tokens",
        head=r"conv3d_transpose_1\.",
        encoder=_TOKENS,
        token_grid=_divided_grid,
        runs_alone=False,
        hidden_states=True,
    ),
    NetworkParts(
        MaskedAutoEncoderViT,
        "tokens",
        head=r"decoder_pred\.",
        encoder=_TOKENS,
        token_grid=_divided_grid,
        runs_alone=False,
    ),
    NetworkParts(SwinUNETR, "swin", prefix="swinViT.", head=r"out\.", output="out"),
    NetworkParts(
        SegResNet, "segresnet", head=r"conv_final\.", encoder=r"(convInit|down_layers)\.", output="conv_final"
    ),
    NetworkParts(SegResNetDS, "segresnet_ds", prefix="encoder.", head=r"up_layers(_auto)?\.\d+\.head\."),
    # The levels of a UNet are nested: each is (down, skip connection around the next level, up). The first "up" is the
    # head.
    NetworkParts(UNet, "unet", head=r"model\.2\.", encoder=r"model\.(?!(1\.submodule\.)*2\.)"),
    NetworkParts(ResNet, "resnet", head=r"fc\.", encoder=r"(conv1|bn1|layer[1-4])\."),
    NetworkParts(DenseNet, "densenet", prefix="features.", head=r"class_layers\."),
)
_CLASSIFIER = NetworkParts(nn.Sequential, "", prefix="encoder.")  # of classification_network


def parts_of(network: nn.Module) -> NetworkParts:
    """Return what is known of the class of a network, or what its description says, plain or adapted.

    Raises:
        TypeError: if the class is unknown, as :func:`check_known` says.

    Example:
        >>> parts_of(SegResNet(init_filters=8, blocks_down=(1, 1), blocks_up=(1,))).output
        'conv_final'
    """
    if DESCRIPTION in vars(network):
        described: NetworkParts = vars(network)[DESCRIPTION].parts(network)
        return described
    for parts in NETWORK_PARTS:
        if isinstance(network, parts.kind):
            return parts
    if _is_classifier(network):
        return _CLASSIFIER
    raise TypeError(
        f"expected a {', '.join(parts.kind.__name__ for parts in NETWORK_PARTS)} or the result of "
        f"classification_network, got {type(network).__name__}; pass the network itself, not a container around it, "
        "make its class a subclass of the one that it extends, or describe its encoder once by anatomy="
    )


def decoder_pattern(network: nn.Module) -> str:
    """Return a pattern that matches in full the parameter names outside the encoder, for ``also_train``.

    Raises:
        TypeError: if the class of the network is unknown, as :func:`check_known` says.

    Example:
        >>> pattern = decoder_pattern(UNETR(1, 2, 32, 4, 48, 96, 4, spatial_dims=2))
        >>> [bool(re.fullmatch(pattern, name)) for name in ("vit.norm.weight", "out.conv.conv.bias")]
        [False, True]
    """
    parts = parts_of(network)
    return rf"(?!{re.escape(parts.prefix)}(?:{parts.encoder})).*"


def check_known(network: nn.Module) -> None:
    """Check that the parts of a network are known, by its class or a base of its class.

    Known are the classes of :data:`NETWORK_PARTS` and the result of
    :func:`monai_essa.anatomy.classification_network`. Guessing would train or load the wrong tensors.

    Args:
        network: plain or adapted.

    Raises:
        TypeError: if it is of another class; the message lists the known ones.

    Example:
        >>> check_known(SegResNet(init_filters=8, blocks_down=(1, 1), blocks_up=(1,)))
    """
    parts_of(network)


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside ``torch.compile``, DataParallel or DistributedDataParallel, or the network itself.

    A wrapper puts ``_orig_mod.`` or ``module.`` before every name; adapters and weight files use the names inside.

    Args:
        network: any module; it is not changed. Nested wrappers are seen through too.

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
    """Return the prefix of the encoder's parameter names, such as ``"vit."``; ``""`` for a bare encoder.

    Raises:
        TypeError: if the class of the network is unknown, as :func:`check_known` says.
    """
    return parts_of(network).prefix


def part_of(network: nn.Module, name: str) -> str:
    """Return the part of its network that a parameter belongs to: ``"encoder"``, ``"decoder"`` or ``"head"``.

    Raises:
        TypeError: if the class of the network is unknown, as :func:`check_known` says.

    Example:
        >>> net = UNETR(1, 2, 32, 4, 48, 96, 4, spatial_dims=2)
        >>> part_of(net, "vit.norm.weight"), part_of(net, "out.conv.conv.bias")
        ('encoder', 'head')
    """
    parts = parts_of(network)
    if name.startswith(parts.prefix) and re.match(parts.encoder, name.removeprefix(parts.prefix)):
        return "encoder"
    return "head" if re.match(parts.head, name) else "decoder"


def encoder_layers(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> tuple[str, ...]:
    """List the encoder's layers of some classes that have parameters of their own and that the forward pass uses.

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
    dead, unseen = dead_parameters(network), layers_read_directly(network)
    return tuple(
        path
        for path, module in network.named_modules()
        if isinstance(module, kinds)
        and (own := [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)])
        and part_of(network, own[0]) == "encoder"
        and own[0] not in dead
        and path not in unseen
    )


def layers_read_directly(network: nn.Module) -> frozenset[str]:
    """Return the layers of torch's own transformer blocks, which read their weights and need not call them.

    ``nn.MultiheadAttention`` never calls its output projection, and ``nn.TransformerEncoderLayer`` calls none of its
    layers on its fast path for inference: an adapter in their place would have no effect.

    Example:
        >>> layers_read_directly(nn.Sequential(nn.MultiheadAttention(4, 2)))
        frozenset({'0.out_proj'})
    """
    return frozenset(
        f"{path}.{name}" if path else name
        for path, module in network.named_modules()
        if isinstance(module, (nn.MultiheadAttention, nn.TransformerEncoderLayer))
        for name, _ in module.named_children()
    )


def undone_layers(network: nn.Module) -> frozenset[str]:
    """Return the convolutions whose scale and shift per channel are undone by an instance norm without parameters.

    A bias of the convolution, or a factor on its output, changes nothing. MONAI's UNet is built this way by default.

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
    """Return the parameters that no forward pass reaches: cross-attention in blocks that were built without it."""
    dead = tuple(
        f"{path}.{child}."
        for path, block in network.named_modules()
        if isinstance(block, TransformerBlock) and not block.with_cross_attention
        for child in ("norm_cross_attn", "cross_attn")
    )
    return frozenset(name for name, _ in network.named_parameters() if name.startswith(dead))


def encoder_trunk(network: nn.Module) -> Any:
    """Return the encoder of a network (``network.vit``, ``network.swinViT``), or the network itself."""
    return network.get_submodule(encoder_prefix(network).rstrip("."))


def check_images(images: Tensor, in_channels: int, spatial_dims: int) -> None:
    """Raise a ValueError unless the images are (B, in_channels, spatial...) with ``spatial_dims`` spatial axes."""
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


def _convolutions_with_norms(module: nn.Module) -> Iterator[tuple[str, nn.Module | None]]:
    if isinstance(module, Convolution):
        yield "conv", getattr(getattr(module, "adn", None), "N", None)
    if isinstance(module, UnetBasicBlock | UnetResBlock):
        yield from ((f"conv{i}.conv", getattr(module, f"norm{i}", None)) for i in (1, 2, 3))


def _is_classifier(network: nn.Module) -> bool:
    """Recognise a classifier by its structure: it consists of stock classes and may come from an inference.yaml."""
    children = dict(network.named_children())
    if type(network) is not nn.Sequential or tuple(children) != _CLASSIFIER_CHILDREN:
        return False
    encoder = children["encoder"]
    names = {name for name, _ in encoder.named_children()}
    gathered = type(encoder) is nn.Sequential and any(children <= names for children in _GATHERED)
    return gathered or DESCRIPTION in vars(encoder) or isinstance(encoder, (ViT, SwinTransformer, SegResEncoder))
