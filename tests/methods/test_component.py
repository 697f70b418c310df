# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The component study: one kind of layer learns."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from monai.networks.blocks.transformerblock import TransformerBlock
from monai.networks.nets import UNETR, SegResNet, SegResNetDS, SwinUNETR, UNet, ViT

from monai_essa import adapt, merge
from monai_essa.methods import APLA, ComponentTuning, FullTuning, NormTuning


def vit(**arguments: object) -> ViT:
    torch.manual_seed(0)
    return ViT(1, 32, 16, 24, 48, 2, 4, qkv_bias=True, **arguments)  # type: ignore[arg-type]


def learning(net: nn.Module) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("component", "layers"),
    [
        ("o", ["blocks.0.attn.out_proj", "blocks.1.attn.out_proj"]),
        ("mlp_in", ["blocks.0.mlp.linear1", "blocks.1.mlp.linear1"]),
        ("mlp_out", ["blocks.0.mlp.linear2", "blocks.1.mlp.linear2"]),
        ("norms", ["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm"]),
        ("patch_embedding", ["patch_embedding.patch_embeddings"]),
    ],
)
def test_whole_layers_learn(component, layers):
    assert learning(adapt(vit(), ComponentTuning(component))) == {
        f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")
    }


@pytest.mark.parametrize(("component", "start"), [("q", 0), ("k", 24), ("v", 48)])
def test_rows_of_a_fused_layer_learn_as_in_full_training(component, start):
    net, full = vit(), adapt(vit(), FullTuning())
    before = net.blocks[1].attn.qkv.weight.detach().clone()
    adapt(net, ComponentTuning(component))
    images = torch.rand(1, 1, 32, 32, 32)
    for each in (net, full):
        each(images)[0].square().mean().backward()
    part, whole, rows = net.blocks[1].attn.qkv, full.blocks[1].attn.qkv, slice(start, start + 24)
    torch.testing.assert_close(part.rows.grad, whole.weight.grad[rows], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(part.row_biases.grad, whole.bias.grad[rows], rtol=1e-4, atol=1e-7)

    with torch.no_grad():
        part.rows.add_(1)
    changed = (merge(net).blocks[1].attn.qkv.weight != before).any(dim=1).nonzero().flatten()
    assert changed.tolist() == list(range(start, start + 24))


def test_separate_projections_learn_whole():
    net = vit()
    net.blocks[1] = TransformerBlock(24, 48, 4, qkv_bias=True, use_combined_linear=False)
    adapt(net, ComponentTuning("k"))
    assert {name for name in learning(net) if "blocks.1" in name} == {
        "blocks.1.attn.to_k.weight",
        "blocks.1.attn.to_k.bias",
    }
    assert type(net.blocks[1].attn.to_k) is nn.Linear


def test_w_o_and_norms_are_what_the_methods_of_these_names_train():
    net = vit()
    assert ComponentTuning("o").claims(net) == APLA().claims(net)
    assert ComponentTuning("norms").claims(net) == NormTuning().claims(net)


@pytest.mark.parametrize(
    ("net", "layer"),
    [
        (ViT(1, 32, 16, 24, 48, 1, 4, proj_type="perceptron"), "patch_embedding.patch_embeddings.1"),
        (UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2), "vit.patch_embedding.patch_embeddings"),
        (SwinUNETR(1, 2, feature_size=12, spatial_dims=2), "swinViT.patch_embed.proj"),
    ],
)
def test_patch_embedding_is_found_without_position_embeddings(net, layer):
    assert learning(adapt(net, ComponentTuning("patch_embedding"))) == {f"{layer}.weight", f"{layer}.bias"}


@pytest.mark.parametrize(
    "net",
    [
        SegResNet(2, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)),
        SegResNetDS(2, init_filters=8, blocks_down=(1, 1)),
        UNet(2, 1, 2, channels=(4, 8), strides=(2,)),
    ],
)
@pytest.mark.parametrize("component", ["q", "o", "mlp_in", "patch_embedding"])
def test_cnn_has_no_such_component(net, component):
    with pytest.raises(ValueError, match=f"component='{component}'.* matches no layer of {type(net).__name__}"):
        adapt(net, ComponentTuning(component))


def test_unknown_component_is_refused():
    with pytest.raises(
        ValueError, match="^ComponentTuning, component: expected one of 'q', .*'patch_embedding'; got 'mlp'$"
    ):
        ComponentTuning("mlp")


def test_two_parts_of_a_fused_layer_do_not_compose():
    net = vit()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"both claim 'blocks\.\d\.attn\.qkv\.(weight|bias)'"):
        adapt(net, [ComponentTuning("q"), ComponentTuning("v")])
    assert net.state_dict().keys() == before.keys()
