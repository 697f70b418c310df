# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Finding the parts of transformer blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.networks.blocks import TransformerBlock
from monai.networks.blocks.crossattention import CrossAttentionBlock
from monai.networks.blocks.spatialattention import SpatialAttentionBlock
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SegResNet, SwinUNETR, ViT

from monai_essa.anatomy.blocks import Rows, transformer_blocks
from monai_essa.anatomy.parts import dead_parameters, encoder_prefix, part_of


def vit_of(block: nn.Module) -> ViT:
    """A ViT whose only block is the given one."""
    net = ViT(1, 16, 8, 24, 48, 1, 4)
    net.blocks[0] = block
    return net


def test_fused_projection_is_three_ranges_of_rows():
    block = transformer_blocks(ViT(1, 32, 16, 24, 48, 2, 4))[1]
    assert (block.query, block.key, block.value) == tuple(
        Rows("blocks.1.attn.qkv", i * 24, i * 24 + 24) for i in range(3)
    )
    assert block.output == "blocks.1.attn.out_proj"
    assert block.mlp == ("blocks.1.mlp.linear1", "blocks.1.mlp.linear2")
    assert block.norms == ("blocks.1.norm1", "blocks.1.norm2")


def test_separate_projections_and_cross_attention():
    net = vit_of(TransformerBlock(24, 48, 4, with_cross_attention=True, use_combined_linear=False))
    own, cross = transformer_blocks(net)
    assert own.key == Rows("blocks.0.attn.to_k", 0, 24)
    assert cross.path == "blocks.0.cross_attn" and cross.output == "blocks.0.cross_attn.out_proj"
    assert cross.norms == ("blocks.0.norm_cross_attn",) and cross.mlp == ()
    assert not dead_parameters(net)


def test_identity_is_never_a_target():
    (block,) = transformer_blocks(vit_of(TransformerBlock(24, 48, 4, include_fc=False)))
    assert block.output is None


def test_lone_attention_is_found():
    net = SegResNet(2, init_filters=8, blocks_down=(1, 1), blocks_up=(1,))
    net.down_layers[1].append(SpatialAttentionBlock(spatial_dims=2, num_channels=16, norm_num_groups=8))
    (block,) = transformer_blocks(net)
    assert block.path == "down_layers.1.2.attn" and block.output == "down_layers.1.2.attn.out_proj"
    assert block.mlp == () and block.role == "encoder"


@pytest.mark.parametrize("v2", [True, False])
def test_swin_blocks_of_four_stages(v2):
    blocks = transformer_blocks(SwinUNETR(1, 2, feature_size=12, spatial_dims=2, use_v2=v2))
    assert len(blocks) == 8
    assert blocks[-1].output == "swinViT.layers4.0.blocks.1.attn.proj"
    assert blocks[-1].value == Rows("swinViT.layers4.0.blocks.1.attn.qkv", 192, 288)


def test_masked_autoencoder_tells_encoder_from_decoder():
    net = MaskedAutoEncoderViT(
        1, 32, 16, 24, 48, 3, 4, decoder_hidden_size=24, decoder_num_heads=4, decoder_num_layers=2
    )
    assert [block.role for block in transformer_blocks(net)] == ["encoder"] * 3 + ["decoder"] * 2


def test_dead_parameters_get_no_gradient_and_live_ones_do():
    net = ViT(1, 32, 16, 24, 48, 2, 4)
    net(torch.rand(1, 1, 32, 32, 32))[0].square().mean().backward()
    assert {name for name, parameter in net.named_parameters() if parameter.grad is None} == dead_parameters(net)


def test_cross_attention_that_monai_1_5_builds_and_never_calls_is_no_target():
    net = ViT(1, 32, 16, 24, 48, 2, 4)
    net.blocks[0].cross_attn = CrossAttentionBlock(24, 4)
    assert [block.path for block in transformer_blocks(net)] == ["blocks.0", "blocks.1"]
    assert "blocks.0.cross_attn.out_proj.weight" in dead_parameters(net)


def test_parts():
    unetr = UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2)
    assert encoder_prefix(unetr) == "vit."
    assert [
        part_of(unetr, name) for name in ("vit.norm.weight", "encoder1.layer.conv1.conv.weight", "out.conv.conv.bias")
    ] == ["encoder", "decoder", "head"]


def test_a_convolutional_network_has_no_blocks():
    assert transformer_blocks(SegResNet(spatial_dims=2, init_filters=8, in_channels=1, out_channels=2)) == ()


def test_unknown_attention_class_is_named():
    net = ViT(1, 32, 16, 24, 48, 2, 4)
    net.blocks[1].attn = nn.MultiheadAttention(24, 4)
    with pytest.raises(TypeError, match="block 'blocks.1' holds the attention class MultiheadAttention"):
        transformer_blocks(net)
