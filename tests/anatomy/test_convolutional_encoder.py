# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Feature maps of CNN encoders."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import SegResNet, SegResNetDS, UNet

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
    assert all(any(t.shape == m.shape and torch.equal(t, m) for t in outputs) for m in maps)


@every_network
def test_size_that_the_stride_does_not_divide_is_refused(kind):
    make, shape = NETWORKS[kind]
    view = encoder_view(make())
    with pytest.raises(ValueError, match="multiple of"):
        view.features(torch.rand(*shape[:-1], shape[-1] + 1))


def test_levels_of_a_unet_end_at_the_bottom():
    net = UNet(2, 1, 2, channels=(4, 8, 16), strides=(2, 2))
    assert list(unet_levels(net)) == [net.model[0], net.model[1].submodule[0], net.model[1].submodule[1].submodule]
