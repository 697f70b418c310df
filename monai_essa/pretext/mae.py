# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""MAE: an encoder sees the visible patches only, and a small decoder reconstructs the masked ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding
from monai.utils import ensure_tuple_rep
from torch import Tensor

from monai_essa.anatomy import EncoderDescription, FeatureMapEncoder, TokenEncoder, encoder_view
from monai_essa.anatomy.blocks import self_attention_block
from monai_essa.anatomy.described.tokens import DescribedTokens
from monai_essa.pretext.losses import PatchReconstruction
from monai_essa.pretext.masked_prediction import MaskedPrediction, MaskedReconstruction
from monai_essa.pretext.masking import block_mask, gather_cells, masked_count, split_cells, units_of

__all__ = ["MAE", "MAEDecoder", "TokenDecoder"]

_LOSS = PatchReconstruction("l2", normalised=True)
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


_DECODER = MAEDecoder()


class MAE(MaskedReconstruction):
    """Masked autoencoder (He et al. 2022, arXiv 2111.06377) for ViT encoders in 2-D and 3-D.

    Patches are embedded with their positions, most of them are dropped, the encoder runs on the rest, and a light
    decoder predicts the dropped ones. The loss is computed on masked patches only. The adaptation method decides which
    tensors of the encoder learn.

    Args:
        encoder: a ViT, UNETR, ViTAutoEnc or MaskedAutoEncoderViT (whose own decoder is not used), plain or adapted. It
            is kept as the attribute ``encoder``, not copied.
        mask_ratio: share of the patches to mask; 0.75 as in the paper (section 4.1).
        mask_unit: voxels of a masked block along each axis, a multiple of the patch size; None masks single patches, as
            in the paper.
        decoder: size of the decoder; see :class:`MAEDecoder`.
        loss: comparison of masked patches; L2 on normalised patches by default (section 4.1, table 1d).
        anatomy: where the parts of an encoder are that MONAI does not have; None if the network knows.

    Raises:
        ValueError: if the encoder has feature maps instead of tokens (SwinUNETR), if the mask ratio is outside (0, 1),
            if the patch size does not divide the mask unit, or if the decoder's width does not fit.
        TypeError: if the encoder is of an unknown class.

    Example:
        >>> import torch
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> objective = MAE(encoder=net)
        >>> parts = objective(torch.rand(2, 1, 32, 32, 32), generator=torch.Generator().manual_seed(0))
        >>> parts["loss"].backward()
    """

    def __init__(
        self,
        encoder: nn.Module,
        mask_ratio: float = 0.75,
        mask_unit: int | Sequence[int] | None = None,
        decoder: MAEDecoder = _DECODER,
        loss: PatchReconstruction = _LOSS,
        anatomy: EncoderDescription | None = None,
    ) -> None:
        super().__init__(encoder, mask_ratio, loss)
        view = _token_view(encoder, anatomy)
        unit = view.patch_size if mask_unit is None else ensure_tuple_rep(mask_unit, view.spatial_dims)
        voxels = math.prod(view.patch_size) * view.in_channels
        self.block = units_of(unit, view.patch_size)
        self.decoder = TokenDecoder(
            view.hidden_size, voxels, view.spatial_dims, decoder.hidden_size, decoder.depth, decoder.num_heads
        )

    def predict(self, images: Tensor, generator: torch.Generator | None = None) -> MaskedPrediction:
        """Predict the masked patches of images (B, C, spatial...) as the loss sees them."""
        view = _token_view(self.encoder)
        tokens = view.embed(images)  # (B, N, D)

        # Keep the visible tokens only.
        grid = view.grid(images.shape[2:])
        mask = block_mask(len(images), grid, self.mask_ratio, self.block, generator, images.device)
        block_cells = math.prod(self.block)
        count = masked_count(tokens.shape[1] // block_cells, self.mask_ratio) * block_cells
        visible, masked = split_cells(mask, count)
        encoded = view.encode_all(gather_cells(tokens, visible))  # (B, [1 +] N - M, D)

        return MaskedPrediction(self.decoder(encoded, visible, masked, grid), masked, view.patch_size)


class TokenDecoder(nn.Module):
    """Predict masked patches from the encoded visible ones (MAE, section 3, "MAE decoder").

    Encoded tokens are projected to the decoder's width and put at their places in the grid, a learned mask token fills
    all other places, fixed sine-cosine positions are added, and transformer blocks run over all tokens. Positions are
    computed for the grid of the crop, so any crop size works. Only masked tokens reach the output layer.

    As in the official code, linear layers start Xavier-uniform with zero biases, the mask token starts normal with a
    deviation of 0.02, norms add 1e-6 to the variance, and a class token of the encoder goes first, without a position.
    MONAI's ViT has no class token unless ``classification=True``; the paper finds that this works as well (appendix
    A.1).

    Args:
        in_features: width D of the encoder's tokens.
        out_features: values V of a patch.
        spatial_dims: 2 or 3.
        hidden_size: width W of the decoder.
        depth: number of transformer blocks; their MLP is 4 times as wide, as in the paper.
        num_heads: attention heads.

    Raises:
        ValueError: if the width is not a multiple of 2 * spatial_dims and of ``num_heads``.
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
        self.blocks = nn.ModuleList(self_attention_block(hidden_size, num_heads, _EPSILON) for _ in range(depth))
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
            grid: patches along each axis, N in total.

        Returns:
            Predicted patches (B, M, V).
        """
        tokens = self.embed(encoded).to(self.mask_token.dtype)  # (B, [1 +] N - M, W)
        front = tokens.shape[1] - visible.shape[1]  # class token and others in front, if the encoder has them
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


def _token_view(network: nn.Module, anatomy: EncoderDescription | None = None) -> TokenEncoder | DescribedTokens:
    view = encoder_view(network, anatomy=anatomy)
    if isinstance(view, FeatureMapEncoder):
        raise ValueError(
            f"expected an encoder that can drop tokens (ViT, UNETR), got {type(network).__name__}, whose windows need "
            f"all of them; use SimMIM"
        )
    return view


def _start_xavier_uniform(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
