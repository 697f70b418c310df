# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""View the encoder of a described network that keeps tokens: images in, tokens out."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from monai_essa.anatomy.described.description import (
    EncoderDescription,
    TokenDescription,
    described,
    described_blocks,
    token_grid,
)
from monai_essa.anatomy.parts import check_images, divide_shape, encoder_trunk
from monai_essa.anatomy.positions import interpolate_positions

__all__ = ["DescribedTokens"]


@dataclass(frozen=True, eq=False)
class DescribedTokens:
    """The tokens of a described encoder; attributes and methods are those of the view of MONAI's ViT.

    Shapes use B for images, N for patches of an image, P for prefix tokens and D for features of a token.

    Attributes:
        network: the network that holds the encoder; not a copy.
        anatomy: its description.
    """

    network: nn.Module
    anatomy: TokenDescription

    @property
    def patch_embedding(self) -> nn.Module:
        """The convolution whose output a mask token replaces, before positions are added."""
        return _trunk(self.network).get_submodule(self.anatomy.patch_embedding)

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Voxels of a patch along each axis."""
        return tuple(self._weight.shape[2:])

    @property
    def in_channels(self) -> int:
        """Image channels."""
        return self._weight.shape[1]

    @property
    def hidden_size(self) -> int:
        """D."""
        return self._weight.shape[0]

    @property
    def native_grid(self) -> tuple[int, ...]:
        """The token grid that the network was built for."""
        return token_grid(self.network)

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes."""
        return len(self.patch_size)

    @property
    def stride(self) -> tuple[int, ...]:
        """Voxels between neighbouring tokens along each axis."""
        return self.patch_size

    @property
    def has_class_token(self) -> bool:
        """Whether the first prefix token is there."""
        return bool(self.anatomy.prefix_tokens) and _tensor(self.network, self.anatomy.prefix_tokens[0]) is not None

    def check(self, images: Tensor) -> None:
        """Raise a ValueError unless the images are (B, in_channels, spatial...)."""
        check_images(images, self.in_channels, self.spatial_dims)

    def grid(self, spatial_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the token grid of an image of this spatial shape; ValueError if the patch size does not divide it."""
        return divide_shape(spatial_shape, self.patch_size, self.patch_size)

    def embed(self, images: Tensor) -> Tensor:
        """Embed the patches of images (B, in_channels, spatial...) and add their positions; (B, N, D)."""
        self.check(images)
        grid = self.grid(images.shape[2:])
        tokens = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, D, grid...) -> (B, N, D)
        table = _tensor(self.network, self.anatomy.positions)
        if table is None:
            return tokens
        own = table[:, table.shape[1] - math.prod(self.native_grid) :]
        return tokens + interpolate_positions(own, self.native_grid, grid, self.anatomy.antialias)

    def encode(self, tokens: Tensor) -> Tensor:
        """Run the blocks and the final norm on tokens (B, N', D), any subset of an image's; (B, N', D)."""
        return self.encode_all(tokens)[:, -tokens.shape[1] :]

    def encode_all(self, tokens: Tensor) -> Tensor:
        """Run the encoder as :meth:`encode` does, and return the prefix tokens in front; (B, P + N', D)."""
        trunk = _trunk(self.network)
        tokens = torch.cat([*self._prefix(len(tokens)), tokens], dim=1)
        last = (self.anatomy.final_norm,) if self.anatomy.final_norm else ()
        inner = [path.removeprefix(self._root) for path in self._blocks]
        for path in (*self.anatomy.before_blocks, *inner, *last):
            tokens = trunk.get_submodule(path)(tokens)
        return tokens

    def _prefix(self, batch: int) -> list[Tensor]:
        found = (_tensor(self.network, path) for path in self.anatomy.prefix_tokens)
        tokens = [token for token in found if token is not None]
        if not tokens:
            return []
        prefix, table = torch.cat(tokens, dim=1), _tensor(self.network, self.anatomy.positions)
        if table is not None and table.shape[1] > math.prod(self.native_grid):
            prefix = prefix + table[:, : prefix.shape[1]]
        return [prefix.expand(batch, -1, -1)]

    @property
    def _root(self) -> str:
        return _found(self.network)[1]

    @property
    def _blocks(self) -> Iterator[str]:
        return described_blocks(self.network, *_found(self.network))

    @property
    def _weight(self) -> Tensor:
        weight: Tensor = self.patch_embedding.weight  # type: ignore[assignment]
        return weight


def _found(network: nn.Module) -> tuple[EncoderDescription, str]:
    found: Any = described(network)  # a view is made of described networks only
    return found


def _trunk(network: nn.Module) -> nn.Module:
    trunk: nn.Module = encoder_trunk(network)
    return trunk


def _tensor(network: nn.Module, path: str) -> Tensor | None:
    """Return a tensor of the encoder, None if there is none or no path."""
    return operator.attrgetter(path)(_trunk(network)) if path else None
