# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The depth of each layer, against tables that were written by hand from the forward pass of each network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn as nn
from monai.networks.nets import UNETR, DenseNet, ResNet, SegResNet, SegResNetDS, SwinUNETR, UNet, ViT

from monai_essa import adapt
from monai_essa.anatomy import classification_network
from monai_essa.anatomy.described.description import EncoderDescription, MapDescription
from monai_essa.anatomy.described.fit import describe
from monai_essa.anatomy.tensor_names import layer_depths
from monai_essa.methods import APLA, VPT, AdaptFormer, LoRA
from tests.anatomy.own_encoders import OwnMaps, OwnTokens, maps_anatomy, tokens_anatomy


def described(network: nn.Module, anatomy: EncoderDescription) -> nn.Module:
    describe(network, anatomy)
    return network


def swin() -> nn.Module:
    return SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(2, 1, 1, 1), num_heads=(1, 1, 1, 1), use_v2=True)


def resnet() -> nn.Module:
    return ResNet("basic", [2, 1, 1, 1], [4, 4, 4, 4], spatial_dims=2, n_input_channels=1)


# By network, the depth of what begins with a text; the last table row of each is the greatest depth.
TABLES: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "ViT": (
        lambda: ViT(1, 16, 8, 24, 48, 3, 4, spatial_dims=2, classification=True, num_classes=2),
        {"cls_token": 0, "patch_embedding.": 0, "blocks.0.": 1, "blocks.1.": 2, "blocks.2.": 3, "norm.": 4}
        | {"classification_head.": 4},
    ),
    "UNETR": (
        lambda: UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2),
        {"vit.patch_embedding.": 0, "vit.blocks.0.": 1, "vit.blocks.9.": 10, "vit.blocks.11.": 12, "vit.norm.": 13}
        | {"encoder1.": 13, "decoder5.": 13, "out.": 13},
    ),
    "SwinUNETR": (
        swin,
        {"swinViT.patch_embed.": 0, "swinViT.layers1c.": 0, "swinViT.layers1.0.blocks.0.": 1}
        | {"swinViT.layers1.0.blocks.1.": 2, "swinViT.layers1.0.downsample.": 2, "swinViT.layers2c.": 2}
        | {"swinViT.layers2.": 3, "swinViT.layers3c.": 3, "swinViT.layers3.": 4, "swinViT.layers4c.": 4}
        | {"swinViT.layers4.0.blocks.0.": 5, "swinViT.layers4.0.downsample.": 5, "encoder1.": 6, "out.": 6},
    ),
    "SegResNet": (
        lambda: SegResNet(spatial_dims=2, init_filters=8, blocks_down=(1, 2), blocks_up=(1,)),
        {"convInit.": 0, "down_layers.0.": 1, "down_layers.1.": 2, "up_layers.": 3, "conv_final.": 3},
    ),
    "SegResNetDS": (
        lambda: SegResNetDS(spatial_dims=2, init_filters=8, blocks_down=(1, 2)),
        {"encoder.conv_init.": 0, "encoder.layers.0.": 1, "encoder.layers.1.": 2, "up_layers.": 3},
    ),
    "UNet": (
        lambda: UNet(2, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1),
        {"model.0.": 1, "model.1.submodule.0.": 2, "model.1.submodule.1.": 3, "model.1.submodule.2.": 4, "model.2.": 4},
    ),
    "ResNet": (resnet, {"conv1.": 0, "bn1.": 0, "layer1.": 1, "layer2.": 2, "layer3.": 3, "layer4.": 4, "fc.": 5}),
    "DenseNet": (
        lambda: DenseNet(2, 1, 2, init_features=4, growth_rate=2, block_config=(1, 1)),
        {"features.conv0.": 0, "features.norm0.": 0, "features.denseblock1.": 1, "features.transition1.": 1}
        | {"features.denseblock2.": 2, "features.norm5.": 3, "class_layers.": 3},
    ),
    "described tokens": (
        lambda: described(OwnTokens(), tokens_anatomy()),
        {"first": 0, "registers": 0, "places": 0, "embed.": 0, "blocks.0.": 1, "blocks.1.": 2}
        | {"last_norm.": 3, "head.": 3},
    ),
    "described maps": (
        lambda: described(OwnMaps(), maps_anatomy()),
        {"stem.": 0, "norm.": 0, "blocks.0.": 1, "blocks.1.": 2, "neck.": 3},
    ),
    "described without blocks": (
        lambda: described(
            nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.Conv2d(4, 2, 1)),
            EncoderDescription(MapDescription(1, 4, (4, 4)), head=r"1\."),
        ),
        {"0.": 1, "1.": 2},
    ),
    "classifier of a ResNet": (
        lambda: classification_network(resnet(), 2),
        {"encoder.conv1.": 0, "encoder.bn1.": 0, "encoder.layer1.": 1, "encoder.layer2.": 2, "encoder.layer3.": 3}
        | {"encoder.layer4.": 4, "head_norm.": 5, "head.": 5},
    ),
    "classifier of a Swin": (
        lambda: classification_network(swin(), 2, pooling="attention"),
        {"encoder.patch_embed.": 0, "encoder.layers1c.": 0, "encoder.layers1.0.blocks.0.": 1}
        | {"encoder.layers1.0.blocks.1.": 2, "encoder.layers1.0.downsample.": 2, "encoder.layers2c.": 2}
        | {"encoder.layers2.": 3, "encoder.layers3c.": 3, "encoder.layers3.": 4, "encoder.layers4c.": 4}
        | {"encoder.layers4.": 5, "pool.": 6, "head_norm.": 6, "head.": 6},
    ),
}
WHOLE = set(TABLES) - {"UNETR", "SwinUNETR", "SegResNet", "SegResNetDS"}  # whose table has a row for each parameter


@pytest.mark.parametrize("name", TABLES)
def test_each_layer_has_the_depth_of_the_table(name: str) -> None:
    build, table = TABLES[name]
    depths = layer_depths(build())
    for start, depth in table.items():
        assert {found for tensor, found in depths.items() if tensor.startswith(start)} == {depth}, start
    assert max(depths.values()) == list(table.values())[-1]
    assert name not in WHOLE or not [tensor for tensor in depths if not tensor.startswith(tuple(table))]


@pytest.mark.parametrize("method", [APLA(columns=4), LoRA(), AdaptFormer(bottleneck=2), VPT(tokens=2)])
def test_what_a_method_adds_is_as_deep_as_its_block(method) -> None:
    network = adapt(ViT(1, 16, 8, 24, 48, 3, 4, spatial_dims=2), method)
    depths = layer_depths(network)
    added = {name: depths[name] for name, tensor in network.named_parameters() if tensor.requires_grad}
    assert added and all(depth == int(name.split(".")[1]) + 1 for name, depth in added.items())
