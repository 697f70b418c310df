# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch.nn as nn
from monai.networks.nets import UNETR, BasicUNet, MaskedAutoEncoderViT, SwinUNETR, ViT, ViTAutoEnc

from monai_essa.anatomy import FeatureMapEncoder, TokenEncoder, encoder_view, keep_grid

SIZES = {"hidden_size": 24, "mlp_dim": 24, "num_heads": 2}


@pytest.mark.parametrize(
    "network",
    [
        ViT(1, 32, 16, num_layers=1, **SIZES),
        UNETR(1, 2, 32, feature_size=4, **SIZES),
        ViTAutoEnc(1, 32, 16, num_layers=1, **SIZES),
        MaskedAutoEncoderViT(1, 32, 16, num_layers=1, decoder_hidden_size=24, decoder_num_heads=2, **SIZES),
    ],
    ids=lambda network: type(network).__name__,
)
def test_vision_transformers_are_viewed_as_tokens(network):
    view = encoder_view(network)

    assert isinstance(view, TokenEncoder)
    assert view.network is network
    assert view.patch_size == (16, 16, 16)


@pytest.mark.parametrize("use_v2", [False, True])
def test_swin_is_viewed_as_feature_maps(use_v2):
    network = SwinUNETR(1, 2, feature_size=12, use_v2=use_v2)

    assert isinstance(encoder_view(network), FeatureMapEncoder)


@pytest.mark.parametrize("network", [BasicUNet(), nn.DataParallel(nn.Identity())], ids=["BasicUNet", "DataParallel"])
def test_other_network_is_named_in_the_error(network):
    with pytest.raises(TypeError, match=f"got {type(network).__name__}; pass the network itself"):
        encoder_view(network)


def test_view_changes_nothing():
    network = ViT(1, 32, 16, num_layers=1, **SIZES)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trainable = [parameter.requires_grad for parameter in network.parameters()]

    encoder_view(network)

    assert all((network.state_dict()[name] == tensor).all() for name, tensor in before.items())
    assert [parameter.requires_grad for parameter in network.parameters()] == trainable


def test_a_given_grid_is_that_of_the_view_alone():
    network = ViT(1, (64, 32, 16), 16, num_layers=1, **SIZES)

    assert encoder_view(network, grid=(4, 2, 1)).native_grid == (4, 2, 1)
    assert encoder_view(network).native_grid is None
    keep_grid(network, (4, 2, 1))
    assert encoder_view(network).native_grid == (4, 2, 1)
    with pytest.raises(ValueError, match=r"for the grid \(4, 2, 1\), got \(2, 4, 1\)"):
        encoder_view(network, grid=(2, 4, 1))


def test_feature_maps_have_no_grid():
    with pytest.raises(ValueError, match="SwinUNETR has no position embeddings, so it has no grid"):
        encoder_view(SwinUNETR(1, 2, feature_size=12), grid=(2, 2, 2))
