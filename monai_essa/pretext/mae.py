# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""MAE: the encoder sees the visible patches only, a light decoder predicts the masked ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
from monai.utils import ensure_tuple_rep
from torch import Tensor

from monai_essa.losses import PatchReconstruction
from monai_essa.networks import TokenEncoder, encoder_view
from monai_essa.pretext.mae_decoder import MAEDecoder, TokenDecoder
from monai_essa.pretext.masked_prediction import (
    MaskedPrediction,
    head_parameters,
    plain_tensor,
    reconstruction_images,
    reconstruction_parts,
)
from monai_essa.pretext.masking import block_mask, check_ratio, gather_cells, masked_count, split_cells, units_of

__all__ = ["MAE"]

_DECODER = MAEDecoder()
_LOSS = PatchReconstruction("l2", normalised=True)


class MAE(nn.Module):
    """Masked autoencoder (He et al. 2022, arXiv 2111.06377) for ViT encoders in 2-D and 3-D.

    Patches are embedded and given their positions, most of them are dropped, the encoder runs on the rest, and a light
    decoder predicts the dropped ones. The loss is taken on masked patches only. Which tensors of the encoder learn is
    not decided here: gradients reach those that require them.

    Args:
        encoder: a ViT, UNETR, ViTAutoEnc or MaskedAutoEncoderViT (whose own decoder is not used), plain or adapted. It
            is kept as the attribute ``encoder``, not copied.
        mask_ratio: share of the patches to mask; 0.75 is the paper's (section 4.1).
        mask_unit: voxels of a masked block along each axis, a multiple of the patch size; None masks single patches, as
            the paper does.
        decoder: size of the decoder; see :class:`MAEDecoder`.
        loss: comparison of masked patches; L2 on normalised patches by default (section 4.1, table 1d).

    Raises:
        ValueError: if the encoder has feature maps in place of tokens (SwinUNETR), if the mask ratio is outside (0, 1),
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
    ) -> None:
        super().__init__()
        check_ratio(mask_ratio)
        view = _token_view(encoder)
        unit = view.patch_size if mask_unit is None else ensure_tuple_rep(mask_unit, view.spatial_dims)
        voxels = math.prod(view.patch_size) * view.in_channels
        self.block = units_of(unit, view.patch_size)
        self.mask_ratio = mask_ratio
        self.loss = loss
        self.encoder = encoder
        self.decoder = TokenDecoder(
            view.hidden_size, voxels, view.spatial_dims, decoder.hidden_size, decoder.depth, decoder.num_heads
        )

    def forward(
        self, images: Tensor, foreground: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Mask the images, predict what is masked and compare.

        Args:
            images: (B, C, spatial...), a multiple of the patch size; any size, positions are interpolated, from the
                grid that ``keep_grid`` told a ViT.
            foreground: weight of each voxel (B, 1, spatial...), for example 1 in the body and 0 in air; None weighs all
                voxels alike.
            generator: source of the mask; the same seed gives the same mask. None takes the global one of the CPU.

        Returns:
            ``loss``, a scalar, and ``weight``, the sum of the weights that it was divided by (without a foreground the
            number of masked patches).

        Raises:
            ValueError: if the shapes of images or foreground do not fit.
        """
        images = plain_tensor(images)
        return reconstruction_parts(self.predict(images, generator), images, foreground, self.loss)

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

    def head_parameters(self) -> list[nn.Parameter]:
        """List what is trained beside the encoder: the decoder with its mask token."""
        return head_parameters(self)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Show what is predicted, for figures; set ``eval()`` first where the network has dropout.

        A prediction of normalised patches is brought back by prediction * std + mean of the **true** patch, as in the
        paper's figures: its contrast and brightness are given, its structure is predicted.

        Args:
            images: (B, C, spatial...).
            generator: source of the mask.

        Returns:
            ``original``, ``masked``, ``prediction`` and ``mask``, each (B, C, spatial...).
        """
        images = plain_tensor(images)
        return reconstruction_images(self.predict(images, generator), images, self.loss)


def _token_view(network: nn.Module) -> TokenEncoder:
    view = encoder_view(network)
    if not isinstance(view, TokenEncoder):
        raise ValueError(
            f"expected an encoder that can drop tokens (ViT, UNETR), got {type(network).__name__}, whose windows need "
            f"all of them; use SimMIM"
        )
    return view
