# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The view of an encoder that turns patches into tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from monai_essa.networks.encoder_parts import check_images, divide_shape, encoder_trunk
from monai_essa.networks.position_embedding import interpolate_positions

__all__ = ["TokenEncoder"]


@dataclass(frozen=True, eq=False)
class TokenEncoder:
    """An encoder that turns patches into tokens: ViT, UNETR, ViTAutoEnc and the encoder of MaskedAutoEncoderViT.

    It looks modules up when it is called, so that layers which an adapter replaced in place are the ones that run.
    Letters: B images, N patches of an image, D features of a token.

    Attributes:
        network: the network that holds the encoder; not a copy.
        patch_size: voxels of a patch along each axis, which is the ``stride`` too.
        in_channels: image channels.
        hidden_size: D.
        native_grid: the token grid that the network was built for; None where nobody said it of a ViT, which does not
            keep it.
    """

    network: nn.Module
    patch_size: tuple[int, ...]
    in_channels: int
    hidden_size: int
    native_grid: tuple[int, ...] | None

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes."""
        return len(self.patch_size)

    @property
    def stride(self) -> tuple[int, ...]:
        """Voxels between neighbouring tokens along each axis."""
        return self.patch_size

    @property
    def patch_embedding(self) -> nn.Module:
        """The module whose output a mask token replaces: the patch projection, before positions are added."""
        projection: nn.Module = encoder_trunk(self.network).patch_embedding.patch_embeddings
        return projection

    def check(self, images: Tensor) -> None:
        """Raise a ValueError unless the images are (B, in_channels, spatial...)."""
        check_images(images, self.in_channels, self.spatial_dims)

    def grid(self, spatial_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the token grid of an image of this spatial shape; ValueError if the patch size does not divide it."""
        return divide_shape(spatial_shape, self.patch_size, self.patch_size)

    def embed(self, images: Tensor) -> Tensor:
        """Embed the patches and add their positions, interpolated where the crop is not the size of the network.

        Args:
            images: (B, in_channels, spatial...), any spatial shape that the patch size divides.

        Returns:
            Tokens (B, N, D) in row-major order of the grid.

        Raises:
            ValueError: if the images have other channels or axes, if the patch size does not divide them, or if their
                positions have to be interpolated and nobody said from which grid.
        """
        self.check(images)
        grid = self.grid(images.shape[2:])
        embedding = encoder_trunk(self.network).patch_embedding
        tokens = embedding.patch_embeddings(images)
        if embedding.proj_type == "conv":
            tokens = tokens.flatten(2).transpose(1, 2)  # (B, D, grid...) -> (B, N, D)
        positions = embedding.position_embeddings
        source = self.native_grid or _same_grid(positions.shape[1], grid)
        tokens = tokens + interpolate_positions(positions, source, grid)
        return embedding.dropout(tokens)

    def encode(self, tokens: Tensor) -> Tensor:
        """Run the transformer blocks and the final norm on any subset of the tokens.

        Args:
            tokens: (B, N', D), with their positions added; all of them or, as MAE does, the visible ones only.

        Returns:
            Final tokens (B, N', D). A class token takes part where the network has one, and is left out here.
        """
        return self.encode_all(tokens)[:, -tokens.shape[1] :]

    def encode_all(self, tokens: Tensor) -> Tensor:
        """Do what :meth:`encode` does, and leave the class token in front where the network has one.

        Args:
            tokens: (B, N', D).

        Returns:
            Final tokens (B, N', D), or (B, 1 + N', D) with the class token.
        """
        trunk = encoder_trunk(self.network)
        if (class_token := getattr(trunk, "cls_token", None)) is not None:
            tokens = torch.cat([class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in trunk.blocks:
            tokens = block(tokens)
        # MaskedAutoEncoderViT has no ``norm``: its final norm is the last of its blocks.
        if (norm := getattr(trunk, "norm", None)) is not None:
            tokens = norm(tokens)
        return tokens


def _same_grid(count: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return the crop's grid where a ViT has as many positions, as its own forward pass does; never guess another."""
    if count == math.prod(grid):
        return grid
    raise ValueError(
        f"cannot interpolate the {count} position embeddings of this ViT to the grid {grid}: a ViT does not keep the "
        "grid that it was built for; say it by keep_grid(network, grid) or encoder_view(network, grid=...), "
        "img_size / patch_size of the network, or use crops of that size"
    )
