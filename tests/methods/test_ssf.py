# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""SSF against its formula, and merged layers against adapted ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, SegResNet, SegResNetDS, SwinUNETR, UNet, ViT

from monai_essa import adapt, merge
from monai_essa.anatomy import encoder_view
from monai_essa.methods import SSF
from monai_essa.methods.ssf import SSFLayer

# The layer, the shape of its input, and the axis of the output's channels.
LAYERS = {
    "linear": (lambda: nn.Linear(4, 6), (2, 3, 4), -1),
    "linear-no-bias": (lambda: nn.Linear(4, 6, bias=False), (2, 3, 4), -1),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="circular"), (2, 4, 5, 5), 1),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 5, 5), 1),
    "layer-norm": (lambda: nn.LayerNorm(4), (2, 3, 4), -1),
    "group-norm": (lambda: nn.GroupNorm(2, 4), (2, 4, 5, 5), 1),
    "batch-norm": (lambda: nn.BatchNorm3d(4), (2, 4, 3, 3, 3), 1),
    "instance-norm": (lambda: nn.InstanceNorm2d(4, affine=True), (2, 4, 5, 5), 1),
}
NETWORKS = {
    "vit": (lambda: ViT(1, 16, 8, 24, 48, 2, 4, proj_type="perceptron"), (1, 1, 16, 16, 16)),
    "unetr": (lambda: UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2, qkv_bias=True), (1, 1, 32, 32)),
    "swin": (lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2, use_v2=True), (1, 1, 64, 64)),
    "segresnet": (lambda: SegResNet(3, 8, blocks_down=(1, 1), blocks_up=(1,)), (1, 1, 16, 16, 16)),
    "segresnet-ds": (lambda: SegResNetDS(3, 8, blocks_down=(1, 1), dsdepth=1), (1, 1, 16, 16, 16)),
    "unet": (lambda: UNet(2, 1, 2, channels=(4, 8), strides=(2,), norm="batch"), (1, 1, 16, 16)),
}


def randomize(module: nn.Module) -> None:
    """Move what training and loading would move, running statistics included, away from zeros and ones."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand_like(tensor))


def output_of(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    output = network(images)
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("kind", LAYERS)
def test_layer_equals_the_formula_and_its_merged_form(kind):
    make, shape, axis = LAYERS[kind]
    plain, x = make().double().eval(), torch.randn(shape, dtype=torch.float64)
    randomize(plain)
    layer = SSFLayer(plain)
    assert torch.equal(layer(x), plain(x))

    randomize(layer)
    y = plain(x).movedim(axis, -1)
    expected = (y * layer.ssf_scale + (0 if layer.ssf_shift is None else layer.ssf_shift)).movedim(-1, axis)
    torch.testing.assert_close(layer(x), expected)
    assert (layer.ssf_shift is None) == (plain.bias is None)

    merged = layer.merged()
    torch.testing.assert_close(merged(x), expected)
    assert type(merged) is type(plain) and list(merged.state_dict()) == list(plain.state_dict())
    storages = {tensor.data_ptr() for tensor in layer.state_dict().values()}
    assert not storages & {tensor.data_ptr() for tensor in merged.state_dict().values()}


@pytest.mark.parametrize("kind", NETWORKS)
def test_merged_network_equals_the_adapted_one_in_double_precision(kind):
    make, shape = NETWORKS[kind]
    net, images = make().double().eval(), torch.rand(shape, dtype=torch.float64)
    before = output_of(net, images)
    adapt(net, SSF())
    for name, parameter in net.named_parameters():
        if "ssf_" in name:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    adapted = output_of(net, images)
    assert not torch.allclose(adapted, before, rtol=1e-2)
    torch.testing.assert_close(output_of(merge(net), images), adapted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_reach_the_added_tensors_and_no_other(kind):
    make, shape = NETWORKS[kind]
    net = adapt(make().train(), SSF())
    output_of(net, torch.rand(shape)).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == ("ssf_" in name), name


def test_layers_are_all_of_the_encoder_that_are_used_and_not_undone():
    net = adapt(ViT(1, 16, 8, 24, 48, 1, 4, classification=True), SSF())
    assert [path for path, module in net.named_modules() if isinstance(module, SSFLayer)] == [
        "patch_embedding.patch_embeddings",
        *(f"blocks.0.{name}" for name in ("mlp.linear1", "mlp.linear2", "norm1", "attn.out_proj", "attn.qkv", "norm2")),
        "norm",
    ]
    unet = adapt(UNet(2, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1), SSF())
    assert [path for path, module in unet.named_modules() if isinstance(module, SSFLayer)] == [
        "model.0.residual",
        "model.1.submodule.residual",
    ]


def test_running_statistics_of_a_network_in_training_stay_and_are_used():
    net = adapt(SegResNetDS(2, init_filters=8, blocks_down=(1, 1), dsdepth=1), SSF())  # its norms are batch norms
    randomize(net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(net.train()(x), net.eval()(x))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.InstanceNorm2d(3, affine=True, track_running_stats=True)])
def test_a_layer_in_train_mode_uses_the_running_statistics_and_leaves_them(norm):
    randomize(norm)
    layer, x = SSFLayer(norm), torch.randn(4, 3, 5, 5)
    expected, before = norm.eval()(x), {name: value.clone() for name, value in layer.state_dict().items()}
    assert torch.equal(layer.train()(x), expected)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_layer_in_place_of_another_answers_for_its_attributes():
    net = adapt(SwinUNETR(1, 2, feature_size=12, spatial_dims=2), SSF())
    assert encoder_view(net).hidden_size == 12
    assert net.swinViT.layers1[0].downsample.norm.normalized_shape == (48,)
    assert "SSFLayer(LayerNorm: (48,)" in repr(net.swinViT.layers1[0].downsample)


def test_type_under_autocast_is_that_of_the_plain_layer():
    for make, shape, _ in LAYERS.values():
        plain, x = make(), torch.randn(shape)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert SSFLayer(plain)(x).dtype == plain(x).dtype


def test_moving_the_network_moves_statistics_and_added_tensors_together():
    layer = SSFLayer(nn.BatchNorm2d(3))
    expected = layer(torch.ones(2, 3, 4, 4))
    torch.testing.assert_close(layer.double()(torch.ones(2, 3, 4, 4, dtype=torch.float64)), expected.double())
    assert layer.plain().running_mean.dtype == torch.float64
