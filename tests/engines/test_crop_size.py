# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch.nn as nn
from monai.networks.nets import UNETR, SwinUNETR, ViT

from monai_essa.engines.networks import check_crop_size

VIT = ViT(1, 32, 16, hidden_size=24, mlp_dim=48, num_layers=1, num_heads=4)
UNETR_2D = UNETR(1, 2, 32, feature_size=2, hidden_size=24, mlp_dim=48, num_heads=4, spatial_dims=2)
SWIN = SwinUNETR(1, 2, feature_size=12)


@pytest.mark.parametrize(("network", "size"), [(VIT, [16, 32, 48]), (UNETR_2D, [32, 16]), (SWIN, (32, 32, 64))])
def test_a_size_that_fits_passes(network: nn.Module, size: list[int]) -> None:
    check_crop_size(network, size)


@pytest.mark.parametrize(
    ("network", "size", "line"),
    [
        (VIT, [40, 32, 32], r"img_size \[40, 32, 32\]: ViT needs multiples of \(16, 16, 16\), .*; set \[48, 32, 32\]"),
        (VIT, [16, 16, 16], r"not all of them 1; set \[32, 32, 32\]"),
        (VIT, [0, 32, 32], r"set \[16, 32, 32\]"),
        (VIT, [32, 32], r"img_size \[32, 32\]: expected 3 sides, for a 3-D network"),
        (SWIN, [48, 64, 64], r"SwinUNETR needs multiples of \(32, 32, 32\), .*; set \[64, 64, 64\]"),
        (SWIN, [32, 32, 32], r"set \[64, 64, 64\]"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_one_that_does(network: nn.Module, size: list[int], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        check_crop_size(network, size)
