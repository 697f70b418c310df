# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One view of an encoder: tokens (ViT family) or feature maps (Swin, CNNs) out of whichever MONAI network holds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch.nn as nn
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SegResNet, SegResNetDS, SwinUNETR, UNet, ViT, ViTAutoEnc
from torch import Tensor

from monai_essa.network_parts import check_known
from monai_essa.networks.convolutional_encoder import segresnet_ds_encoder, segresnet_encoder, unet_encoder
from monai_essa.networks.encoder_parts import encoder_trunk
from monai_essa.networks.feature_map_encoder import FeatureMapEncoder
from monai_essa.networks.position_embedding import check_grid, kept_grid
from monai_essa.networks.token_encoder import TokenEncoder

__all__ = ["encoder_view"]


def encoder_view(network: nn.Module, grid: Sequence[int] | None = None) -> TokenEncoder | FeatureMapEncoder:
    """View the encoder of a MONAI network, plain or adapted.

    Args:
        network: a ViT, UNETR, ViTAutoEnc, MaskedAutoEncoderViT (its encoder half), SwinUNETR (version 1 or 2),
            SegResNet, SegResNetDS or UNet, 2-D or 3-D. Nothing in it is changed.
        grid: the token grid that the network was built for, ``img_size / patch_size``; for a ViT, which does not keep
            it, on crops of another size. :func:`keep_grid` says it once for all views.

    Returns:
        A :class:`TokenEncoder`, or for SwinUNETR and the CNNs a :class:`FeatureMapEncoder`.

    Raises:
        TypeError: if the network is of another class.
        ValueError: if the grid is not that of the network, or the network has no position embeddings.

    Example:
        >>> import torch
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> view = encoder_view(net, grid=(4, 4, 4))
        >>> view.encode(view.embed(torch.zeros(2, 1, 16, 32, 32))).shape
        torch.Size([2, 32, 48])
    """
    for kind, view in _VIEWS.items():
        if isinstance(network, kind):
            return view(network) if grid is None else _with_grid(network, view(network), grid)
    check_known(network)
    raise TypeError(
        f"expected one of {', '.join(kind.__name__ for kind in _VIEWS)}, got a classifier ({type(network).__name__}); "
        "pass the network that it was made of"
    )


def _view_tokens(network: nn.Module) -> TokenEncoder:
    embedding = encoder_trunk(network).patch_embedding
    if embedding.proj_type == "conv":
        hidden_size, in_channels, *patch_size = embedding.patch_embeddings.weight.shape
    else:
        rearrange, linear = embedding.patch_embeddings
        patch_size = [size for _, size in sorted(rearrange.axes_lengths.items())]
        hidden_size, in_channels = linear.weight.shape[0], linear.weight.shape[1] // math.prod(patch_size)
    return TokenEncoder(network, tuple(patch_size), in_channels, hidden_size, kept_grid(network))


def _with_grid(network: nn.Module, view: TokenEncoder | FeatureMapEncoder, grid: Sequence[int]) -> TokenEncoder:
    if not isinstance(view, TokenEncoder):
        raise ValueError(f"{type(network).__name__} has no position embeddings, so it has no grid; leave grid out")
    return replace(view, native_grid=check_grid(network, grid))


def _view_swin(network: nn.Module) -> FeatureMapEncoder:
    trunk = encoder_trunk(network)
    hidden_size, in_channels, *patch_size = trunk.patch_embed.proj.weight.shape
    halvings = 2**trunk.num_layers  # each stage ends with a merging of 2 patches along each axis
    stride = tuple(size * halvings for size in patch_size)
    return FeatureMapEncoder(
        network, tuple(patch_size), in_channels, hidden_size, hidden_size * halvings, stride, _swin_maps
    )


def _swin_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    return list(encoder_trunk(network)(images, network.normalize))


_VIEWS: dict[type[nn.Module], Callable[[Any], TokenEncoder | FeatureMapEncoder]] = {
    ViT: _view_tokens,
    UNETR: _view_tokens,
    ViTAutoEnc: _view_tokens,
    MaskedAutoEncoderViT: _view_tokens,
    SwinUNETR: _view_swin,
    SegResNet: segresnet_encoder,
    SegResNetDS: segresnet_ds_encoder,
    UNet: unet_encoder,
}
