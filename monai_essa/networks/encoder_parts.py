# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What every view of an encoder needs: the encoder inside its network, and images that fit it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from monai_essa.network_parts import encoder_prefix

__all__ = ["check_images", "divide_shape", "encoder_trunk"]


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
