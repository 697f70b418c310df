# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Full tuning and head only."""

from __future__ import annotations

from monai.networks.nets import UNETR, ViT

from monai_essa import adapt
from monai_essa.anatomy.parts import dead_parameters
from monai_essa.methods.selective import FullTuning, HeadOnly


def test_full_tuning_trains_the_whole_encoder_and_leaves_the_decoder_to_also_train():
    net = adapt(UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2), FullTuning())
    live = {name for name, _ in net.named_parameters() if name.startswith("vit.")} - dead_parameters(net)
    assert {name for name, parameter in net.named_parameters() if parameter.requires_grad} == live


def test_fixed_position_embeddings_stay_fixed():
    net = ViT(1, 32, 16, 24, 48, 2, 4, pos_embed_type="sincos")
    net.patch_embedding.position_embeddings.requires_grad_(False)
    assert not adapt(net, FullTuning()).patch_embedding.position_embeddings.requires_grad


def test_head_only_claims_nothing():
    net = adapt(ViT(1, 32, 16, 24, 48, 2, 4), HeadOnly())
    assert not any(parameter.requires_grad for parameter in net.parameters())
