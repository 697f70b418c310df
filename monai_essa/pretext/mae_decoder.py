# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The light transformer that MAE puts behind the encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from monai.networks.blocks import TransformerBlock
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding
from torch import Tensor

from monai_essa.pretext.masking import gather_cells

__all__ = ["MAEDecoder", "TokenDecoder"]

_EPSILON = 1e-6


@dataclass(frozen=True)
class MAEDecoder:
    """Size of MAE's decoder.

    The paper's own has 8 blocks of width 512 and finds that fine-tuning hardly depends on either (He et al. 2022, arXiv
    2111.06377, tables 1a and 1b). The decoder sees all tokens, masked ones too, and is thrown away: it is small here.

    Attributes:
        hidden_size: width; a multiple of 4 in 2-D and of 6 in 3-D for the sine-cosine positions, and of ``num_heads``.
        depth: number of transformer blocks.
        num_heads: attention heads.
    """

    hidden_size: int = 192
    depth: int = 2
    num_heads: int = 6


class TokenDecoder(nn.Module):
    """Predict masked patches from the encoded visible ones (MAE, section 3, "MAE decoder").

    Encoded tokens are brought to the decoder's width and put at their place of the grid, a learned mask token stands at
    every other place, fixed sine-cosine positions are added, and transformer blocks run over all. Positions are
    computed for the grid of the crop, so crops of any size go through. Only masked tokens reach the output layer.

    As in the official code, linear layers start Xavier-uniform with biases of zero and the mask token normal with a
    deviation of 0.02, norms add 1e-6 to the variance, and a class token of the encoder goes first, without a position.
    An encoder without one, which MONAI's ViT is unless ``classification=True``, has none to pass on: the paper finds
    that it works as well (appendix A.1).

    Args:
        in_features: width D of the encoder's tokens.
        out_features: values V of a patch.
        spatial_dims: 2 or 3.
        hidden_size: width W of the decoder.
        depth: number of transformer blocks; their MLP is 4 times as wide, as in the paper.
        num_heads: attention heads.

    Raises:
        ValueError: if the width is no multiple of 2 * spatial_dims or of ``num_heads``.
    """

    def __init__(
        self, in_features: int, out_features: int, spatial_dims: int, hidden_size: int, depth: int, num_heads: int
    ) -> None:
        super().__init__()
        if hidden_size % (2 * spatial_dims):
            raise ValueError(
                f"expected a decoder hidden_size that is a multiple of {2 * spatial_dims} for {spatial_dims}-D "
                f"sine-cosine positions, got {hidden_size}"
            )
        self.spatial_dims = spatial_dims
        self.mask_token = nn.Parameter(torch.empty(hidden_size))
        self.embed = nn.Linear(in_features, hidden_size)
        self.blocks = nn.ModuleList(_block(hidden_size, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_size, eps=_EPSILON)
        self.predict = nn.Linear(hidden_size, out_features)
        self.apply(_start_xavier_uniform)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, encoded: Tensor, visible: Tensor, masked: Tensor, grid: Sequence[int]) -> Tensor:
        """Predict the masked patches.

        Args:
            encoded: tokens of the visible patches (B, N - M, D), or a class token and these (B, 1 + N - M, D).
            visible: their numbers (B, N - M) in row-major order of the grid.
            masked: numbers of the patches to predict (B, M).
            grid: patches along each axis, N in all.

        Returns:
            Predicted patches (B, M, V).
        """
        tokens = self.embed(encoded).to(self.mask_token.dtype)  # (B, [1 +] N - M, W)
        front = tokens.shape[1] - visible.shape[1]  # class tokens: one or none
        class_token, tokens = tokens[:, :front], tokens[:, front:]

        # Fill the grid, add positions, run the blocks.
        places = visible[..., None].expand_as(tokens)
        tokens = self.mask_token.expand(len(tokens), math.prod(grid), -1).scatter(1, places, tokens)  # (B, N, W)
        tokens = torch.cat([class_token, tokens + self._positions(grid)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)

        return self.predict(self.norm(gather_cells(tokens[:, front:], masked)))

    def _positions(self, grid: Sequence[int]) -> Tensor:
        with self.mask_token.device:
            positions = build_sincos_position_embedding(list(grid), len(self.mask_token), self.spatial_dims)
        return positions.to(self.mask_token.dtype)


def _block(hidden_size: int, num_heads: int) -> TransformerBlock:
    block = TransformerBlock(hidden_size, 4 * hidden_size, num_heads, qkv_bias=True, use_flash_attention=True)
    # MONAI builds these for cross-attention, which no forward pass here reaches; DDP would wait for their gradients.
    block.register_module("norm_cross_attn", nn.Identity())
    block.register_module("cross_attn", nn.Identity())
    block.norm1.eps = block.norm2.eps = _EPSILON
    return block


def _start_xavier_uniform(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
