# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Encoder, decoder and head by name, and the layers of an encoder."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import SegResNet, SegResNetDS, SwinUNETR, UNet, ViT

from monai_essa.network_parts import dead_parameters, encoder_layers, encoder_prefix, part_of, undone_layers, unwrapped

CNNS = {
    "segresnet": lambda: SegResNet(3, init_filters=8, blocks_down=(1, 1, 1), blocks_up=(1, 1)),
    "segresnet-ds": lambda: SegResNetDS(3, init_filters=8, blocks_down=(1, 1, 1), dsdepth=2),
    "unet": lambda: UNet(3, 1, 2, channels=(4, 8, 16), strides=(2, 2)),
    "unet-residual": lambda: UNet(3, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=2),
}
BIAS = 3.0


@pytest.mark.parametrize("kind", CNNS)
def test_encoder_of_a_cnn_is_what_the_deepest_feature_map_depends_on(kind):
    net = CNNS[kind]()
    parts = {name: part_of(net, name) for name, _ in net.named_parameters()}
    assert set(parts.values()) == {"encoder", "decoder", "head"} if kind != "unet" else {"encoder", "head"}
    deepest = max((module.out_channels, path) for path, module in net.named_modules() if isinstance(module, nn.Conv3d))[
        1
    ]
    reached = []
    net.get_submodule(deepest).register_forward_hook(lambda _m, _i, output: reached.append(output))
    net(torch.rand(1, 1, 16, 16, 16))
    reached[0].square().mean().backward()
    with_gradient = {name for name, p in net.named_parameters() if p.grad is not None}
    assert with_gradient and all(parts[name] == "encoder" for name in with_gradient)


def test_decoder_and_head_of_a_unet():
    net = CNNS["unet-residual"]()
    assert part_of(net, "model.1.submodule.1.submodule.conv.unit0.conv.weight") == "encoder"
    assert part_of(net, "model.1.submodule.2.0.conv.weight") == "decoder"
    assert part_of(net, "model.2.1.conv.unit1.conv.weight") == "head"
    assert part_of(CNNS["segresnet-ds"](), "up_layers.1.head.weight") == "head"


def test_classifier_is_an_encoder_and_a_head():
    net = nn.Sequential(OrderedDict(encoder=ViT(1, 16, 8, 24, 48, 1, 4), norm=nn.LayerNorm(24), head=nn.Linear(24, 2)))
    assert encoder_prefix(net) == "encoder."
    assert (part_of(net, "encoder.norm.weight"), part_of(net, "head.weight")) == ("encoder", "head")
    assert encoder_layers(net, (nn.LayerNorm,))[-1] == "encoder.norm"


def test_layers_leave_out_decoders_placeholders_and_what_is_dead():
    net = ViT(1, 16, 8, 24, 48, 1, 4, classification=True)
    norms = encoder_layers(net, (nn.LayerNorm, nn.Identity))
    assert norms == ("blocks.0.norm1", "blocks.0.norm2", "norm")
    assert any("norm_cross_attn" in name for name in dead_parameters(net))
    assert not any("classification_head" in path for path in encoder_layers(net, (nn.Linear,)))


@pytest.mark.parametrize(
    "net",
    [
        UNet(2, 1, 2, channels=(4, 8), strides=(2,)),
        SwinUNETR(1, 2, feature_size=12, spatial_dims=2, use_v2=True, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
    ],
)
def test_a_shift_of_an_undone_layer_changes_nothing(net):
    images = torch.rand(1, 1, 64, 64)
    undone = [path for path in encoder_layers(net, (nn.Conv2d,)) if path in undone_layers(net)]
    assert undone
    before = net(images)
    for path in undone:
        net.get_submodule(path).register_forward_hook(lambda _m, _i, output: output + BIAS)
    torch.testing.assert_close(net(images), before, rtol=1e-4, atol=1e-4)


def test_affine_norm_undoes_nothing():
    assert not undone_layers(UNet(2, 1, 2, channels=(4, 8), strides=(2,), norm=("instance", {"affine": True})))


@pytest.mark.parametrize(
    "wrap",
    [lambda net: net, torch.compile, nn.DataParallel, lambda net: nn.DataParallel(torch.compile(nn.DataParallel(net)))],
    ids=["plain", "compiled", "parallel", "nested"],
)
def test_a_wrapped_network_is_seen_through(wrap):
    net = nn.Linear(2, 2)
    assert unwrapped(wrap(net)) is net
