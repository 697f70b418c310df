# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The view of an encoder that gives feature maps of falling resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn as nn
from torch import Tensor

from monai_essa.networks.encoder_parts import check_images, divide_shape, encoder_trunk

__all__ = ["FeatureMapEncoder"]


@dataclass(frozen=True, eq=False)
class FeatureMapEncoder:
    """An encoder that gives feature maps of falling resolution: the Swin transformer of SwinUNETR, or a CNN's.

    Attributes:
        network: the network that holds the encoder; not a copy.
        patch_size: voxels of a patch of the patch embedding along each axis; 1 for a CNN, which has none.
        in_channels: image channels.
        hidden_size: channels of the patch embedding, which is what a mask token replaces; a CNN's image channels.
        channels: channels of the deepest feature map.
        stride: voxels between neighbouring positions of the deepest feature map along each axis.
        maps: computes the feature maps, finest first, from the network and images (B, in_channels, spatial...).
    """

    network: nn.Module
    patch_size: tuple[int, ...]
    in_channels: int
    hidden_size: int
    channels: int
    stride: tuple[int, ...]
    maps: Callable[[Any, Tensor], list[Tensor]]

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes."""
        return len(self.patch_size)

    @property
    def patch_embedding(self) -> nn.Module | None:
        """The module whose output a mask token replaces; None for a CNN, where it replaces voxels of the image."""
        return getattr(encoder_trunk(self.network), "patch_embed", None)

    def check(self, images: Tensor) -> None:
        """Raise a ValueError unless the images are (B, in_channels, spatial...)."""
        check_images(images, self.in_channels, self.spatial_dims)

    def grid(self, spatial_shape: Sequence[int]) -> tuple[int, ...]:
        """Give the grid of the patch embedding for this spatial shape; ValueError if the stride does not divide it."""
        return divide_shape(spatial_shape, self.patch_size, self.stride)

    def features(self, images: Tensor) -> list[Tensor]:
        """Give the feature maps, finest first.

        Args:
            images: (B, in_channels, spatial...), any spatial shape that the stride divides.

        Returns:
            The output of each stage, (B, C_i, spatial_i...); before them, for SwinUNETR, the patch embedding.

        Raises:
            ValueError: if the images have other channels or axes, or the stride does not divide them.
        """
        self.check(images)
        self.grid(images.shape[2:])
        return self.maps(self.network, images)
