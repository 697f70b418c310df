# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Feature maps of CNN encoders."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DenseNet, ResNet, ResNetFeatures, SegResNet, SegResNetDS, SegResNetDS2, UNet

from monai_essa.anatomy import encoder_view
from monai_essa.anatomy.encoders import unet_levels

NETWORKS = {
    "segresnet": (lambda: SegResNet(3, 8, 2, 3), (1, 2, 16, 32, 16)),
    "segresnet-2d": (lambda: SegResNet(2, 8, 1, 3, blocks_down=(1, 2), blocks_up=(1,)), (1, 1, 16, 8)),
    "segresnet-ds": (lambda: SegResNetDS(3, 8, 1, 2, blocks_down=(1, 1, 1)), (1, 1, 16, 16, 16)),
    "segresnet-ds-thick": (
        lambda: SegResNetDS(3, 8, 1, 2, blocks_down=(1, 1, 1, 1), resolution=(1, 1, 5)),
        (1, 1, 16, 16, 8),
    ),
    "segresnet-ds2": (lambda: SegResNetDS2(3, 8, 1, 2, blocks_down=(1, 1, 1)), (1, 1, 16, 16, 16)),
    "resnet": (lambda: ResNet("basic", [1, 1, 1, 1], [4, 4, 8, 8], 3, 2), (1, 2, 32, 16, 16)),
    "resnet-thick": (
        lambda: ResNet("bottleneck", [1, 1, 1, 1], [4, 4, 4, 4], 3, 1, (7, 7, 3), (2, 2, 1), True),
        (1, 1, 32, 16, 16),
    ),
    "densenet": (lambda: DenseNet(2, 1, 2, 8, 4, (1, 2, 1), 2), (1, 1, 32, 16)),
    "unet": (lambda: UNet(3, 1, 2, channels=(4, 8, 16), strides=(2, 2)), (1, 1, 16, 16, 16)),
    "unet-thick": (
        lambda: UNet(3, 2, 2, channels=(4, 8, 16, 32), strides=((2, 2, 1), 2, 2), num_res_units=2),
        (1, 2, 16, 16, 8),
    ),
    "unet-one-level": (lambda: UNet(2, 1, 2, channels=(4, 8), strides=(2,)), (1, 1, 8, 8)),
}
every_network = pytest.mark.parametrize("kind", NETWORKS)


@every_network
def test_view_says_channels_and_stride_of_the_deepest_map(kind):
    make, shape = NETWORKS[kind]
    images = torch.rand(shape)
    view = encoder_view(make().eval())
    deepest = view.features(images)[-1]
    assert view.in_channels == shape[1] and view.spatial_dims == len(shape) - 2
    assert deepest.shape[1] == view.channels
    assert [size // step for size, step in zip(shape[2:], view.stride, strict=True)] == list(deepest.shape[2:])


@every_network
def test_maps_are_those_of_the_network_itself(kind):
    """Whatever the network computes in its own forward pass at the layers of its encoder is what the view gives."""
    make, shape = NETWORKS[kind]
    net, images = make().eval(), torch.rand(shape)
    view = encoder_view(net)
    maps = view.features(images)
    computed: list[torch.Tensor] = []
    for module in net.modules():
        module.register_forward_hook(lambda _m, _i, output: computed.append(output))
    with torch.no_grad():
        net(images)
    outputs = [tensor for tensor in computed if isinstance(tensor, torch.Tensor)]
    assert len(maps) > 1 and all(any(t.shape == m.shape and torch.equal(t, m) for t in outputs) for m in maps)


@every_network
def test_size_that_the_stride_does_not_divide_is_refused(kind):
    make, shape = NETWORKS[kind]
    view = encoder_view(make())
    with pytest.raises(ValueError, match="multiple of"):
        view.features(torch.rand(*shape[:-1], shape[-1] + 1))


def test_levels_of_a_unet_end_at_the_bottom():
    net = UNet(2, 1, 2, channels=(4, 8, 16), strides=(2, 2))
    assert list(unet_levels(net)) == [net.model[0], net.model[1].submodule[0], net.model[1].submodule[1].submodule]


def test_maps_of_a_resnet_are_those_that_monai_extracts():
    net, images = (
        ResNetFeatures("resnet10", pretrained=False, spatial_dims=2, in_channels=1).eval(),
        torch.rand(1, 1, 64, 64),
    )
    view = encoder_view(net)
    with torch.no_grad():
        maps, expected = view.features(images), net(images)
    assert view.stride == (32, 32) and view.channels == 512
    assert len(maps) == 5 and all(torch.equal(ours, theirs) for ours, theirs in zip(maps, expected, strict=True))


def test_the_deepest_map_of_a_densenet_is_what_its_own_classifier_pools():
    net, images = DenseNet(2, 1, 3, 8, 4, (1, 2), 2).eval(), torch.randn(2, 1, 16, 16)
    pooled = encoder_view(net).features(images)[-1].mean((2, 3))
    torch.testing.assert_close(net.class_layers.out(pooled), net(images))


def test_a_resnet_whose_maps_no_stride_describes_is_refused():
    with pytest.raises(ValueError, match=r"^expected a ResNet with an odd conv1_t_size, got \(4, 4\): [^\n]*$"):
        encoder_view(ResNet("basic", [1, 1, 1, 1], [4, 4, 4, 4], 2, 1, conv1_t_size=4))
