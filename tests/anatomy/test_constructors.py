# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The constructor that is read from a network's tensors builds a network with the same tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
from monai.networks import nets

from monai_essa.anatomy.constructors import constructor_of

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: nets.ViT(1, 32, 8, hidden_size=128, mlp_dim=96, num_layers=3, num_heads=2, qkv_bias=True),
    "vit 2-D": lambda: nets.ViT(3, 32, 16, hidden_size=64, mlp_dim=64, num_layers=1, num_heads=1, spatial_dims=2),
    "swin": lambda: nets.SwinUNETR(1, 1, feature_size=12),
    "swin v2": lambda: nets.SwinUNETR(2, 1, feature_size=12, depths=(1, 2, 1, 1), use_v2=True, spatial_dims=2),
    "segresnet": lambda: nets.SegResNet(init_filters=8, in_channels=2, blocks_down=(1, 2, 2)),
    "segresnet_ds": lambda: nets.SegResNetDS(init_filters=8, in_channels=1, blocks_down=(1, 2, 4)),
    "segresnet_ds instance": lambda: nets.SegResNetDS(
        init_filters=8, in_channels=1, blocks_down=(1, 1), norm="instance"
    ),
    "resnet18": lambda: nets.resnet18(spatial_dims=3, n_input_channels=1, feed_forward=False, bias_downsample=False),
    "resnet50": lambda: nets.resnet50(spatial_dims=2, n_input_channels=3, num_classes=4, conv1_t_size=3),
}
PREFIXES = {"swin": "swinViT.", "swin v2": "swinViT.", "segresnet_ds": "encoder.", "segresnet_ds instance": "encoder."}
DEFAULTS = {"ViT": {"img_size": (32, 32, 32)}, "SwinUNETR": {"out_channels": 1}}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_constructor_of_a_network_builds_its_encoder_again(name: str) -> None:
    prefix = PREFIXES.get(name, "")
    wanted = shapes(BUILDERS[name](), prefix)

    found = constructor_of(wanted)
    assert found is not None
    arguments = DEFAULTS.get(found.network, {}) | found.arguments
    if "img_size" in arguments:
        arguments["img_size"] = (32,) * arguments["spatial_dims"]
    again = shapes(getattr(nets, found.network)(**arguments), prefix)
    encoder = {key: shape for key, shape in wanted.items() if not key.startswith(("conv_final", "up_", "fc."))}
    assert {key: again.get(key) for key in encoder} == encoder


def test_nothing_is_read_from_tensors_of_no_known_encoder() -> None:
    assert (
        constructor_of({"layer1.0.conv1.weight": torch.Size([8, 8, 3, 3]), "conv1.weight": torch.Size([8, 1, 3, 3])})
        is None
    )
    assert constructor_of({"patch_embedding.patch_embeddings.weight": torch.Size([48, 1, 2, 2, 2])}) is None
    assert constructor_of({"down_projection.proj.weight": torch.Size([864, 1, 8, 8, 8])}) is None


def shapes(network: nn.Module, prefix: str) -> dict[str, torch.Size]:
    return {
        key.removeprefix(prefix): tensor.shape for key, tensor in network.state_dict().items() if key.startswith(prefix)
    }
