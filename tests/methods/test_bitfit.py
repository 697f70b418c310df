# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""BitFit: which tensors are biases."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, SegResNet, SwinUNETR, UNet, ViT

from monai_essa import adapt
from monai_essa.methods import BitFit, NormTuning


def learning(net: nn.Module) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


def test_biases_of_a_vit_are_those_of_linear_layers_norms_and_patch_embedding():
    net = adapt(ViT(1, 16, 8, 24, 48, 1, 4, qkv_bias=True, classification=True), BitFit())
    block = ("norm1", "norm2", "attn.qkv", "attn.out_proj", "mlp.linear1", "mlp.linear2")
    assert learning(net) == {
        *(f"blocks.0.{layer}.bias" for layer in block),
        "norm.bias",
        "patch_embedding.patch_embeddings.bias",
    }


def test_position_bias_table_of_swin_is_no_bias():
    names = BitFit().claims(SwinUNETR(1, 2, feature_size=12, spatial_dims=2))
    assert "swinViT.layers1.0.blocks.0.attn.qkv.bias" in names
    assert not any("relative_position" in name for name in names)


def test_decoder_stays_frozen():
    assert all(name.startswith("vit.") for name in BitFit().claims(UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2)))


def test_norms_adds_the_weights_of_norms():
    net = ViT(1, 16, 8, 24, 48, 1, 4)
    added = BitFit(norms=True).claims(net) - BitFit().claims(net)
    assert added == {name for name in NormTuning().claims(net) if name.endswith("weight")}


def test_every_bias_of_a_cnn_that_learns_has_an_effect():
    torch.manual_seed(0)
    net = adapt(UNet(2, 1, 2, channels=(4, 8, 8), strides=(2, 2), num_res_units=2), BitFit())
    assert {"model.0.residual.bias", "model.1.submodule.0.residual.bias"} <= learning(net)
    net(torch.rand(1, 1, 16, 16)).square().mean().backward()
    assert all(p.grad.abs().max() > 1e-6 for p in net.parameters() if p.requires_grad)


def test_cnn_whose_norms_take_back_every_bias_is_refused():
    with pytest.raises(ValueError, match=r"BitFit\(norms=False\) matches no layer of UNet"):
        adapt(UNet(2, 1, 2, channels=(4, 8), strides=(2,)), BitFit())


def test_segresnet_has_biases_in_its_norms_alone():
    net = SegResNet(2, init_filters=8, blocks_down=(1, 1), blocks_up=(1,))
    assert BitFit().claims(net) == {name for name in NormTuning().claims(net) if name.endswith("bias")}
