# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tiny networks and objectives over them, built by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import (
    UNETR,
    DenseNet,
    MaskedAutoEncoderViT,
    ResNet,
    SegResNet,
    SegResNetDS,
    SwinUNETR,
    UNet,
    ViT,
)
from torch import Tensor

from monai_essa.pretext import MAE, MAEDecoder, SimMIM

_SIZES = {"hidden_size": 48, "mlp_dim": 64, "num_heads": 4}

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: ViT(1, 32, 8, num_layers=2, **_SIZES),
    "vit_2d": lambda: ViT(2, 32, 8, num_layers=2, spatial_dims=2, **_SIZES),
    "vit_perceptron": lambda: ViT(2, 32, 16, num_layers=2, proj_type="perceptron", **_SIZES),
    "vit_class_token": lambda: ViT(1, 32, 16, num_layers=2, classification=True, **_SIZES),
    "mae_vit": lambda: MaskedAutoEncoderViT(
        1, 32, 16, num_layers=2, decoder_hidden_size=24, decoder_num_heads=2, decoder_num_layers=1, **_SIZES
    ),
    "unetr": lambda: UNETR(1, 2, 32, feature_size=4, **_SIZES),
    "unetr_2d": lambda: UNETR(2, 2, 64, feature_size=4, spatial_dims=2, **_SIZES),
    "swin": lambda: SwinUNETR(1, 2, feature_size=12, window_size=4, depths=(1, 1, 1, 1)),
    "swin_2d": lambda: SwinUNETR(2, 3, feature_size=12, spatial_dims=2, depths=(2, 1, 1, 1)),
    "swin_v2_2d": lambda: SwinUNETR(1, 3, feature_size=12, use_v2=True, spatial_dims=2, depths=(1, 1, 1, 1)),
    "segresnet": lambda: SegResNet(3, 8, 1, 2, blocks_down=(1, 1, 1), blocks_up=(1, 1)),
    "segresnet_2d": lambda: SegResNet(2, 8, 2, 3, blocks_down=(1, 1, 1), blocks_up=(1, 1)),
    "segresnet_ds": lambda: SegResNetDS(3, 8, 1, 2, blocks_down=(1, 1, 1), norm="instance"),
    "unet": lambda: UNet(3, 1, 2, channels=(4, 8, 16), strides=(2, 2)),
    "unet_2d": lambda: UNet(2, 2, 2, channels=(4, 8, 16), strides=(2, (1, 2)), num_res_units=1),
    "resnet": lambda: ResNet("basic", [1, 1, 1, 1], [4, 4, 4, 8], 3, 1),
    "densenet_2d": lambda: DenseNet(2, 2, 2, 8, 4, (1, 1), 2),
}
_SHAPES = {
    "vit_2d": (2, 2, 32, 32),
    "vit_perceptron": (2, 2, 32, 32, 32),
    "unetr_2d": (2, 2, 64, 64),
    "swin": (1, 1, 64, 64, 64),
    "swin_2d": (2, 2, 64, 64),
    "swin_v2_2d": (2, 1, 64, 64),
    "segresnet_2d": (2, 2, 32, 32),
    "unet_2d": (2, 2, 32, 32),
    "densenet_2d": (2, 2, 32, 32),
}

OBJECTIVES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "mae": lambda network: MAE(network, decoder=MAEDecoder(hidden_size=24, depth=1, num_heads=2)),
    "simmim": SimMIM,
    "simmim_decoder": lambda network: SimMIM(network, handover="encoder+decoder"),
}


@pytest.fixture
def build_network() -> Callable[[str], nn.Module]:
    """A factory of tiny networks by name."""
    return lambda name: NETWORKS[name]()


@pytest.fixture
def build_objective() -> Callable[[str, str], tuple[nn.Module, Tensor]]:
    """A factory of (objective, fitting images) by the names of objective and network."""

    def build(objective: str, network: str) -> tuple[nn.Module, Tensor]:
        return OBJECTIVES[objective](NETWORKS[network]()), torch.randn(_SHAPES.get(network, (2, 1, 32, 32, 32)))

    return build
