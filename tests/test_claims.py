# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What may learn, and the conflicts that are refused before anything changes."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import SegResNet, ViT

from monai_essa import adapt
from monai_essa.methods import APLA, LoRA


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(1, 32, 16, 24, 48, 2, 4)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("norm.wieght", "matches no parameter; names look like norm.weight"),
        (r"blocks\.0\.attn\.out_proj.*", "which the method trains"),
        (r"blocks\.1\.norm.*", "matches 'blocks.1.norm_cross_attn.bias', which no forward pass reaches"),
    ],
)
def test_also_train_that_does_not_fit_is_refused(pattern, message):
    net = vit()
    with pytest.raises(ValueError, match=message):
        adapt(net, APLA(), also_train=[pattern])
    adapt(net, APLA())  # the refusal left the network as it was


def test_also_train_must_be_a_list():
    with pytest.raises(ValueError, match="must be a list of patterns, got the text 'norm.weight'"):
        adapt(vit(), APLA(), also_train="norm.weight")


def test_methods_that_claim_one_tensor_are_refused():
    net = vit()
    with pytest.raises(ValueError, match=r"both claim 'blocks\.\d\.attn\.out_proj\.(weight|bias)'"):
        adapt(net, [APLA(columns=2), LoRA(targets=("o",))])
    assert type(net.blocks[0].attn.out_proj) is torch.nn.Linear


def test_method_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="matches no layer of SegResNet"):
        adapt(SegResNet(spatial_dims=2, init_filters=8, in_channels=1, out_channels=2), APLA())
