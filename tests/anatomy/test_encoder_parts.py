# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import UNETR, SwinUNETR, ViT

from monai_essa.anatomy.parts import check_images, divide_shape, encoder_trunk


def test_trunk_is_the_encoder_inside_its_network():
    vit = ViT(1, 32, 16, hidden_size=24, mlp_dim=24, num_layers=1, num_heads=2)
    unetr = UNETR(1, 2, 32, feature_size=4, hidden_size=24, mlp_dim=24, num_heads=2)
    swin = SwinUNETR(1, 2, feature_size=12)

    assert encoder_trunk(vit) is vit
    assert encoder_trunk(unetr) is unetr.vit
    assert encoder_trunk(swin) is swin.swinViT


@pytest.mark.parametrize("shape", [(2, 2, 8, 8, 8), (2, 1, 8, 8), (1, 8, 8, 8)])
def test_images_of_another_shape_are_refused_with_the_shape_wanted(shape):
    with pytest.raises(ValueError, match=r"expected images \(B, 1, and 3 spatial axes\), got"):
        check_images(torch.zeros(shape), in_channels=1, spatial_dims=3)


def test_fitting_images_pass():
    check_images(torch.zeros(2, 3, 8, 8), in_channels=3, spatial_dims=2)


def test_shape_is_counted_in_patches():
    assert divide_shape((64, 96), (2, 4), (32, 32)) == (32, 24)


@pytest.mark.parametrize("shape", [(16, 33), (8, 32), (0, 32), (32,)])
def test_shape_that_is_no_multiple_says_how_to_pad(shape):
    with pytest.raises(ValueError, match=r"multiple of \(16, 16\), got .*DivisiblePadd\(k=\(16, 16\)\)"):
        divide_shape(shape, (16, 16), (16, 16))
