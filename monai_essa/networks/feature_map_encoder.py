# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The view of an encoder that gives feature maps of falling resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn as nn
from torch import Tensor

from monai_essa.networks.encoder_parts import check_images, divide_shape, encoder_trunk

__all__ = ["FeatureMapEncoder"]


@dataclass(frozen=True, eq=False)
class FeatureMapEncoder:
    """An encoder that gives feature maps of falling resolution: the Swin transformer of SwinUNETR, version 1 or 2.

    Attributes:
        network: the network that holds the encoder; not a copy.
        patch_size: voxels of a patch of the patch embedding along each axis.
        in_channels: image channels.
        hidden_size: channels of the patch embedding, the first feature map.
        channels: channels of the deepest feature map.
        stride: voxels between neighbouring positions of the deepest feature map along each axis.
    """

    network: nn.Module
    patch_size: tuple[int, ...]
    in_channels: int
    hidden_size: int
    channels: int
    stride: tuple[int, ...]

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes."""
        return len(self.patch_size)

    @property
    def patch_embedding(self) -> nn.Module:
        """The module whose output a mask token replaces."""
        embedding: nn.Module = encoder_trunk(self.network).patch_embed
        return embedding

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
            The patch embedding and the output of each stage, (B, C_i, spatial_i...).

        Raises:
            ValueError: if the images have other channels or axes, or the stride does not divide them.
        """
        self.check(images)
        self.grid(images.shape[2:])
        return list(encoder_trunk(self.network)(images, self.network.normalize))
