# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import SwinUNETR

from monai_essa.anatomy import encoder_view


@pytest.mark.parametrize("use_v2", [False, True])
def test_feature_maps_are_those_of_the_network(use_v2):
    network = SwinUNETR(2, 3, feature_size=12, use_v2=use_v2, spatial_dims=2).eval()
    images = torch.randn(1, 2, 64, 96)

    features = encoder_view(network).features(images)

    expected = network.swinViT(images, True)
    assert len(features) == 5
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features, expected, strict=True))


def test_maps_are_not_normalised_where_the_network_does_not():
    network = SwinUNETR(1, 2, feature_size=12, normalize=False, spatial_dims=2).eval()
    images = torch.randn(1, 1, 64, 64)

    assert torch.equal(encoder_view(network).features(images)[-1], network.swinViT(images, False)[-1])


def test_sizes_are_those_of_the_deepest_map():
    network = SwinUNETR(2, 3, feature_size=12)
    view = encoder_view(network)

    deepest = view.features(torch.zeros(1, 2, 64, 32, 32))[-1]

    assert deepest.shape == (1, view.channels, 2, 1, 1)
    assert (view.stride, view.patch_size) == ((32, 32, 32), (2, 2, 2))
    assert (view.in_channels, view.spatial_dims, view.hidden_size) == (2, 3, 12)
    assert view.patch_embedding is network.swinViT.patch_embed


def test_grid_is_that_of_the_patch_embedding():
    view = encoder_view(SwinUNETR(1, 2, feature_size=12, spatial_dims=2))

    assert view.grid((64, 96)) == tuple(view.features(torch.zeros(1, 1, 64, 96))[0].shape[2:])


def test_image_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"multiple of \(32, 32\), got \(64, 48\)"):
        encoder_view(SwinUNETR(1, 2, feature_size=12, spatial_dims=2)).features(torch.zeros(1, 1, 64, 48))


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match=r"expected images \(B, 1, and 2 spatial axes\)"):
        encoder_view(SwinUNETR(1, 2, feature_size=12, spatial_dims=2)).features(torch.zeros(1, 2, 64, 64))
