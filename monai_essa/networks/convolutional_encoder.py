# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The feature maps of MONAI's convolutional encoders: SegResNet, SegResNetDS and UNet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch.nn as nn
from monai.networks.layers import SkipConnection
from monai.utils import ensure_tuple_rep
from torch import Tensor

from monai_essa.networks.feature_map_encoder import FeatureMapEncoder

Maps = Callable[[Any, Tensor], list[Tensor]]

__all__ = ["segresnet_ds_encoder", "segresnet_encoder", "unet_encoder", "unet_levels"]


def segresnet_encoder(network: Any) -> FeatureMapEncoder:
    """View the encoder of a SegResNet: one feature map for each level, each half the size of the one before."""
    stride = 2 ** (len(network.blocks_down) - 1)
    steps = ensure_tuple_rep(stride, network.spatial_dims)
    return _view(network, network.in_channels, network.init_filters * stride, steps, _segresnet_maps)


def segresnet_ds_encoder(network: Any) -> FeatureMapEncoder:
    """View the encoder of a SegResNetDS; with anisotropic scales the stride differs by axis."""
    channels = network.init_filters * 2 ** (len(network.blocks_down) - 1)
    steps = tuple(int(step) for step in network.shape_factor())
    return _view(network, network.encoder.conv_init.in_channels, channels, steps, _segresnet_ds_maps)


def unet_encoder(network: Any) -> FeatureMapEncoder:
    """View the encoder of a UNet: the way down, from the first level to the bottom."""
    taken = network.strides[: len(network.channels) - 1]
    by_axis = zip(*(ensure_tuple_rep(step, network.dimensions) for step in taken), strict=True)
    steps = tuple(math.prod(axis) for axis in by_axis)
    return _view(network, network.in_channels, network.channels[-1], steps, _unet_maps)


def unet_levels(network: Any) -> Iterator[nn.Module]:
    """Go down a UNet: the layer of each level, and last the bottom. Each level holds the next in a skip connection."""
    level = network.model
    while isinstance(level, nn.Sequential) and len(level) == 3 and isinstance(level[1], SkipConnection):
        yield level[0]
        level = level[1].submodule
    yield level


def _view(network: Any, in_channels: int, channels: int, stride: tuple[int, ...], maps: Maps) -> FeatureMapEncoder:
    # A convolution takes the image voxel by voxel: patches of 1, and a mask token of the image's channels.
    voxel = (1,) * len(stride)
    return FeatureMapEncoder(network, voxel, in_channels, in_channels, channels, stride, maps)


def _segresnet_maps(network: Any, images: Tensor) -> list[Tensor]:
    return list(network.encode(images)[1])


def _segresnet_ds_maps(network: Any, images: Tensor) -> list[Tensor]:
    return list(network.encoder(images))


def _unet_maps(network: Any, images: Tensor) -> list[Tensor]:
    maps: list[Tensor] = []
    for layer in unet_levels(network):
        maps.append(layer(maps[-1] if maps else images))
    return maps
