# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""How SimMIM gets from an encoder to predicted voxels: by a linear layer, or through the network's own decoder."""

from __future__ import annotations

import math

import torch.nn as nn
from monai.networks.layers import Conv
from monai.networks.nets import UNETR, SegResNet, SwinUNETR
from torch import Tensor

from monai_essa.losses import gather_patches, unpatchify
from monai_essa.networks import FeatureMapEncoder, TokenEncoder
from monai_essa.pretext.masking import gather_cells

__all__ = ["FeatureMapHead", "OwnDecoderHead", "TokenHead"]

# Where a network that can decode keeps its output layer, which takes the features of the decoder.
_OUTPUT: dict[type[nn.Module], str] = {UNETR: "out", SwinUNETR: "out", SegResNet: "conv_final"}


class TokenHead(nn.Module):
    """Predict the voxels of each masked patch from its final token by one linear layer.

    Args:
        view: the encoder; it is read here and not kept.
    """

    def __init__(self, view: TokenEncoder) -> None:
        super().__init__()
        self.patch_size = view.patch_size
        self.predict = nn.Linear(view.hidden_size, math.prod(view.patch_size) * view.in_channels)

    def forward(self, view: TokenEncoder, images: Tensor, masked: Tensor) -> Tensor:
        """Encode the images (B, C, spatial...) and predict their patches ``masked`` (B, M) as (B, M, V)."""
        tokens = view.encode(view.embed(images))  # (B, N, D)
        return self.predict(gather_cells(tokens, masked))


class FeatureMapHead(nn.Module):
    """Predict voxels from the deepest feature map by one linear layer and a pixel shuffle.

    The layer has channels * stride^dims * C weights, as in the paper: 25 million for SwinUNETR with feature_size 48 in
    3-D, which is more than its encoder has; the network's own decoder needs no such layer.

    Args:
        view: the encoder; it is read here and not kept.
        patch_size: voxels along each axis of the patches that are asked for.
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
    """Predict voxels through the network's own decoder, with an output layer of its own in place of the network's.

    The decoder's skip path sees the image itself, so the masked voxels of the images given must be blank.

    Args:
        view: the encoder of a UNETR, SwinUNETR or SegResNet; it is read here and not kept.
        patch_size: voxels along each axis of the patches that are asked for.

    Raises:
        ValueError: if the network has no decoder of its own.
    """

    def __init__(self, view: TokenEncoder | FeatureMapEncoder, patch_size: tuple[int, ...]) -> None:
        super().__init__()
        if not isinstance(view.network, tuple(_OUTPUT)):
            raise ValueError(
                f"expected a network with a decoder of its own ({', '.join(kind.__name__ for kind in _OUTPUT)}), "
                f"got {type(view.network).__name__}; use handover 'encoder'"
            )
        self.patch_size = patch_size
        weights = (tensor for tensor in _output_layer(view.network).parameters() if tensor.dim() > 1)
        features = next(weights).shape[1]
        self.predict = Conv[Conv.CONV, view.spatial_dims](features, view.in_channels, kernel_size=1)

    def forward(self, view: TokenEncoder | FeatureMapEncoder, images: Tensor, masked: Tensor) -> Tensor:
        """Decode the images (B, C, spatial...) and predict their patches ``masked`` (B, M) as (B, M, V)."""
        _check_decodable(view, images)
        prediction = self.predict(_decoder_features(view.network, images))  # (B, C, spatial...)
        return gather_patches(prediction, self.patch_size, masked)


def _decoder_features(network: nn.Module, images: Tensor) -> Tensor:
    """Run the network and catch what enters its output layer."""
    caught: list[Tensor] = []
    handle = _output_layer(network).register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
    try:
        network(images)
    finally:
        handle.remove()
    return caught[0]


def _output_layer(network: nn.Module) -> nn.Module:
    return network.get_submodule(next(name for kind, name in _OUTPUT.items() if isinstance(network, kind)))


def _check_decodable(view: TokenEncoder | FeatureMapEncoder, images: Tensor) -> None:
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
