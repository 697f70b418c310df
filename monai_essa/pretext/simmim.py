# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""SimMIM: an encoder sees mask tokens instead of masked patches, and a light head reconstructs them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn as nn
from monai.networks.layers import Conv
from monai.utils import ensure_tuple_rep
from torch import Tensor

from monai_essa.anatomy import EncoderDescription, FeatureMapEncoder, TokenEncoder, encoder_view
from monai_essa.anatomy.described.tokens import DescribedTokens
from monai_essa.anatomy.parts import NETWORK_PARTS, divide_shape, parts_of
from monai_essa.pretext.losses import PatchReconstruction, gather_patches, unpatchify
from monai_essa.pretext.masked_prediction import MaskedPrediction, MaskedReconstruction
from monai_essa.pretext.masking import expand_mask, gather_cells, masked_count, random_mask, split_cells, units_of

__all__ = ["FeatureMapHead", "OwnDecoderHead", "SimMIM", "TokenHead", "replaced_output"]

_LOSS = PatchReconstruction("l1")
_DEFAULT_UNIT = 16


class SimMIM(MaskedReconstruction):
    """Simple masked image modelling (Xie et al. 2022, arXiv 2111.09886) for ViT, Swin and CNN encoders in 2-D and 3-D.

    Masked units of voxels are blanked in the image and their patch embeddings are replaced by a learned mask token, so
    that no path through the network sees them, not even the skip from the raw image. A CNN does not embed patches, so
    the token replaces its voxels. The whole encoder runs, and a head predicts the voxels. The loss is computed on
    masked voxels only. The adaptation method decides which tensors of the encoder learn.

    Args:
        encoder: a ViT, UNETR, ViTAutoEnc, MaskedAutoEncoderViT, SwinUNETR, SegResNet, SegResNetDS, UNet, ResNet or
            DenseNet, plain or adapted. It is kept as the attribute ``encoder``, not copied.
        mask_ratio: share of the units to mask; 0.6 as in the paper (section 4.1.1).
        mask_unit: voxels of a unit along each axis, a multiple of the patch size; None uses 16, or the next multiple of
            the patch size. The paper masks 32 of 192 pixels, a sixth of the side; a sixth of a 96-voxel crop is 16.
        handover: what the objective trains and hands over. ``"encoder"`` predicts by one linear layer (section 3.3);
            ``"encoder+decoder"`` predicts through the decoder of a UNETR, SwinUNETR or SegResNet, of which only the
            output layer (``out``, ``conv_final``) is not used: name the decoder in ``also_train`` and leave that layer
            frozen, because no gradient reaches it.
        loss: comparison of masked voxels; L1 by default (section 3.4).
        anatomy: where the parts of an encoder are that MONAI does not have; None if the network knows.

    Raises:
        ValueError: if the mask ratio is outside (0, 1), the patch size does not divide the mask unit, ``handover`` has
            another value, or the network has no decoder to hand over.
        TypeError: if the encoder is of an unknown class.

    Example:
        >>> import torch
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> objective = SimMIM(encoder=net)
        >>> parts = objective(torch.rand(2, 1, 32, 32, 32), generator=torch.Generator().manual_seed(0))
        >>> parts["loss"].backward()
    """

    def __init__(
        self,
        encoder: nn.Module,
        mask_ratio: float = 0.6,
        mask_unit: int | Sequence[int] | None = None,
        handover: str = "encoder",
        loss: PatchReconstruction = _LOSS,
        anatomy: EncoderDescription | None = None,
    ) -> None:
        super().__init__(encoder, mask_ratio, loss)
        view = encoder_view(encoder, anatomy=anatomy)
        self.mask_unit = _unit(mask_unit, view.patch_size)
        self.handover = handover
        self.mask_token = nn.Parameter(torch.empty(view.hidden_size))
        self.head = _head(view, handover, self.mask_unit)
        nn.init.trunc_normal_(self.mask_token, std=0.02)  # as in the authors' code

    def predict(self, images: Tensor, generator: torch.Generator | None = None) -> MaskedPrediction:
        """Predict the masked patches of images (B, C, spatial...) as the loss sees them."""
        view = encoder_view(self.encoder)
        view.check(images)
        units = divide_shape(images.shape[2:], self.mask_unit, self.mask_unit)
        mask = random_mask(len(images), units, self.mask_ratio, generator, images.device)  # (B, units...)

        # A unit holds one or more of the head's patches.
        patches = units_of(self.mask_unit, self.head.patch_size)
        count = masked_count(math.prod(units), self.mask_ratio) * math.prod(patches)
        _, masked = split_cells(expand_mask(mask, patches), count)

        hidden = expand_mask(mask, self.mask_unit)  # (B, spatial...)
        if view.patch_embedding is None:
            return MaskedPrediction(
                self.head(view, _put_token(images, hidden, self.mask_token), masked), masked, self.head.patch_size
            )
        blanked = images.masked_fill(hidden[:, None], 0)
        embedding_mask = expand_mask(mask, units_of(self.mask_unit, view.patch_size))
        with replaced_output(view.patch_embedding, embedding_mask, self.mask_token):
            prediction = self.head(view, blanked, masked)
        return MaskedPrediction(prediction, masked, self.head.patch_size)


class TokenHead(nn.Module):
    """Predict the voxels of each masked patch from its final token by one linear layer.

    Args:
        view: the encoder; it is not kept.
    """

    def __init__(self, view: TokenEncoder | DescribedTokens) -> None:
        super().__init__()
        self.patch_size = view.patch_size
        self.predict = nn.Linear(view.hidden_size, math.prod(view.patch_size) * view.in_channels)

    def forward(self, view: TokenEncoder | DescribedTokens, images: Tensor, masked: Tensor) -> Tensor:
        """Encode the images (B, C, spatial...) and predict their patches ``masked`` (B, M) as (B, M, V)."""
        tokens = view.encode(view.embed(images))  # (B, N, D)
        return self.predict(gather_cells(tokens, masked))


class FeatureMapHead(nn.Module):
    """Predict voxels from the deepest feature map by one linear layer and a pixel shuffle.

    The layer has channels * stride^dims * C weights, as in the paper: 25 million for SwinUNETR with feature_size 48 in
    3-D, more than its encoder has. The network's own decoder does not need such a layer.

    Args:
        view: the encoder; it is not kept.
        patch_size: voxels along each axis of the patches to predict.
    """

    def __init__(self, view: FeatureMapEncoder, patch_size: tuple[int, ...]) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.predict = nn.Linear(view.channels, math.prod(view.stride) * view.in_channels)

    def forward(self, view: FeatureMapEncoder, images: Tensor, masked: Tensor) -> Tensor:
        """Encode the images (B, C, spatial...) and predict their patches ``masked`` (B, M) as (B, M, V)."""
        deepest = view.features(images)[-1]  # (B, D, cells...)
        cells = self.predict(deepest.flatten(2).transpose(1, 2))  # (B, cells, stride^dims * C)
        return gather_patches(unpatchify(cells, view.stride, deepest.shape[2:]), self.patch_size, masked)


class OwnDecoderHead(nn.Module):
    """Predict voxels through the network's own decoder and a new output layer in place of the network's.

    The decoder's skip path sees the image itself, so masked voxels of the images must be blank.

    Args:
        view: the encoder of a UNETR, SwinUNETR or SegResNet; it is not kept.
        patch_size: voxels along each axis of the patches to predict.

    Raises:
        ValueError: if the network has no decoder of its own.
    """

    def __init__(self, view: TokenEncoder | DescribedTokens | FeatureMapEncoder, patch_size: tuple[int, ...]) -> None:
        super().__init__()
        if not parts_of(view.network).output:
            decoders = ", ".join(parts.kind.__name__ for parts in NETWORK_PARTS if parts.output)
            raise ValueError(
                f"expected a network with a decoder of its own ({decoders}), "
                f"got {type(view.network).__name__}; use handover 'encoder'"
            )
        self.patch_size = patch_size
        weights = (tensor for tensor in _output_layer(view.network).parameters() if tensor.dim() > 1)
        features = next(weights).shape[1]
        self.predict = Conv[Conv.CONV, view.spatial_dims](features, view.in_channels, kernel_size=1)

    def forward(
        self, view: TokenEncoder | DescribedTokens | FeatureMapEncoder, images: Tensor, masked: Tensor
    ) -> Tensor:
        """Decode the images (B, C, spatial...) and predict their patches ``masked`` (B, M) as (B, M, V)."""
        _check_decodable(view, images)
        prediction = self.predict(_decoder_features(view.network, images))  # (B, C, spatial...)
        return gather_patches(prediction, self.patch_size, masked)


@contextmanager
def replaced_output(embedding: nn.Module, mask: Tensor, token: Tensor) -> Iterator[None]:
    """Replace what a module embeds of masked patches by a mask token, within the block.

    Args:
        embedding: module whose output is (B, N, D) or (B, D, grid...).
        mask: boolean (B, grid...), True where masked.
        token: the mask token (D).
    """

    def replace(_module: nn.Module, _inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        if embedded.dim() == 3:  # (B, N, D) from a perceptron embedding, else (B, D, grid...)
            return torch.where(mask.flatten(1)[..., None], token.to(embedded.dtype), embedded)
        return _put_token(embedded, mask, token)

    handle = embedding.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def _unit(mask_unit: int | Sequence[int] | None, patch_size: tuple[int, ...]) -> tuple[int, ...]:
    if mask_unit is None:
        return tuple(patch * math.ceil(_DEFAULT_UNIT / patch) for patch in patch_size)
    unit: tuple[int, ...] = ensure_tuple_rep(mask_unit, len(patch_size))
    units_of(unit, patch_size)
    return unit


def _head(
    view: TokenEncoder | DescribedTokens | FeatureMapEncoder, handover: str, unit: tuple[int, ...]
) -> TokenHead | FeatureMapHead | OwnDecoderHead:
    if handover == "encoder+decoder":
        return OwnDecoderHead(view, unit)
    if handover != "encoder":
        raise ValueError(f"expected handover 'encoder' or 'encoder+decoder', got {handover!r}")
    return FeatureMapHead(view, unit) if isinstance(view, FeatureMapEncoder) else TokenHead(view)


def _put_token(maps: Tensor, mask: Tensor, token: Tensor) -> Tensor:
    """Put the token (D) in place of the masked positions (B, spatial...) of maps (B, D, spatial...)."""
    return torch.where(mask[:, None], token.to(maps.dtype).unflatten(0, (-1, *[1] * (mask.dim() - 1))), maps)


def _decoder_features(network: nn.Module, images: Tensor) -> Tensor:
    """Run the network and return the input of its output layer."""
    caught: list[Tensor] = []
    handle = _output_layer(network).register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
    try:
        network(images)
    finally:
        handle.remove()
    return caught[0]


def _output_layer(network: nn.Module) -> nn.Module:
    return network.get_submodule(parts_of(network).output)


def _check_decodable(view: TokenEncoder | DescribedTokens | FeatureMapEncoder, images: Tensor) -> None:
    shape = tuple(images.shape[2:])
    if isinstance(view, FeatureMapEncoder):
        # Instance normalisation needs two positions or more in the deepest map.
        if shape == view.stride:
            raise ValueError(
                f"expected images larger than the stride {view.stride} of {type(view.network).__name__}, got {shape}; "
                f"pad them to twice that along some axis"
            )
    elif view.native_grid is not None and view.grid(shape) != view.native_grid:
        native = tuple(cells * patch for cells, patch in zip(view.native_grid, view.patch_size, strict=True))
        raise ValueError(
            f"expected images of the img_size {native} for the decoder of UNETR, got {shape}; "
            f"crop to that size, build the network for {shape}, or use handover 'encoder'"
        )
