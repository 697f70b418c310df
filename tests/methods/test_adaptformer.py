# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""AdaptFormer against the paper's formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.networks.blocks import MLPBlock
from monai.networks.nets import MaskedAutoEncoderViT, SwinUNETR, ViT

from monai_essa import adapt, disable_adapter
from monai_essa.methods import AdaptFormer, LoRA
from monai_essa.methods.adaptformer import AdaptFormerMLP

BOTTLENECK = 3
SCALE = 0.5


class Net(ViT):
    def __init__(self) -> None:
        super().__init__(1, 8, 8, 8, 16, 1, 2, spatial_dims=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](x)


def randomize(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in sorted(network.named_parameters(), key=lambda named: named[0]):
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def branch(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.relu(x @ mlp.adaptformer_down.T + mlp.adaptformer_down_bias)
    return SCALE * (hidden @ mlp.adaptformer_up.T + mlp.adaptformer_up_bias)


def test_block_equals_the_formula_on_the_normalised_input():
    net, x = Net().double(), torch.randn(2, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        attended = x + net.blocks[0].attn(net.blocks[0].norm1(x))
        normalised = net.blocks[0].norm2(attended)
        base = attended + net.blocks[0].mlp(normalised)
        randomize(adapt(net, AdaptFormer(BOTTLENECK, SCALE)).eval())
        torch.testing.assert_close(net(x), base + branch(net.blocks[0].mlp, normalised))


def test_only_the_bottleneck_gets_gradients():
    net = adapt(Net(), AdaptFormer(BOTTLENECK))
    randomize(net)
    net(torch.randn(2, 5, 8)).square().mean().backward()
    added = ("down", "down_bias", "up", "up_bias")
    assert {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()} == {
        f"blocks.0.mlp.adaptformer_{name}" for name in added
    }


def test_down_starts_kaiming_uniform_and_the_rest_at_zero():
    layer = AdaptFormerMLP(MLPBlock(64, 16), "linear1", bottleneck=32, scale=0.1)
    limit = 64**-0.5  # sqrt(6 / (1 + 5) / fan-in)
    assert 0.95 * limit < layer.adaptformer_down.abs().max() <= limit
    for tensor in (layer.adaptformer_down_bias, layer.adaptformer_up, layer.adaptformer_up_bias):
        assert not tensor.any()


def test_every_encoder_block_and_no_decoder_block_gets_a_bottleneck():
    net = adapt(MaskedAutoEncoderViT(1, 16, 8, 24, 48, 2, 4, 0.5, 24, 48, 1, 4, spatial_dims=2), AdaptFormer(2))
    assert [path for path, module in net.named_modules() if isinstance(module, AdaptFormerMLP)] == [
        "blocks.0.mlp",
        "blocks.1.mlp",
    ]
    swin = adapt(SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(2, 1, 1, 1)), AdaptFormer(2))
    assert sum(isinstance(module, AdaptFormerMLP) for module in swin.modules()) == 5


def test_order_beside_lora_on_the_same_mlp_does_not_matter():
    methods, outputs, x = (AdaptFormer(BOTTLENECK), LoRA(rank=2, targets=("mlp",))), [], torch.randn(2, 5, 8)
    for order in (methods, methods[::-1]):
        torch.manual_seed(0)
        net = Net().eval()
        base = net(x)
        randomize(adapt(net, order))
        outputs.append(net(x))
        with disable_adapter(net):
            assert torch.equal(net(x), base)
        assert torch.equal(net(x), outputs[-1])
    assert torch.equal(*outputs) and not torch.equal(outputs[0], base)


def test_adapted_network_exports_as_its_refusal_to_merge_promises():
    net, images = (
        adapt(ViT(1, 16, 8, 24, 48, 2, 4, spatial_dims=2).eval(), AdaptFormer(BOTTLENECK)),
        torch.rand(1, 1, 16, 16),
    )
    randomize(net)
    with torch.no_grad():
        expected = net(images)[0]
        exported = torch.export.export(net, (images,)).module()
        torch.testing.assert_close(exported(images)[0], expected)
        torch.testing.assert_close(torch.jit.trace(net, images, strict=False)(images)[0], expected)


def test_the_bottleneck_is_dropped_between_its_layers_in_training_only():
    layer, x = AdaptFormerMLP(MLPBlock(8, 16), "linear1", bottleneck=6, scale=SCALE, dropout=0.5), torch.randn(2, 5, 8)
    nn.init.normal_(layer.adaptformer_up)
    torch.manual_seed(0)
    trained = layer(x)
    torch.manual_seed(0)
    kept = nn.functional.dropout(torch.relu(x @ layer.adaptformer_down.T), 0.5)
    expected = nn.functional.linear(kept, layer.adaptformer_up)
    torch.testing.assert_close(trained, layer.plain()(x) + SCALE * expected)
    torch.testing.assert_close(layer.eval()(x), layer.plain()(x) + branch(layer, x))
    assert "adaptformer_dropout" not in vars(layer.plain())
    assert AdaptFormer().dropout == 0.1
    (placed,) = (part for part in adapt(Net(), AdaptFormer(2)).modules() if isinstance(part, AdaptFormerMLP))
    assert placed.adaptformer_dropout == 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bottleneck": 0}, "bottleneck: expected a whole number from 1 to inf, got 0"),
        ({"bottleneck": True}, "bottleneck: expected a whole number from 1 to inf, got True"),
        ({"bottleneck": "64"}, "bottleneck: expected a whole number from 1 to inf, got '64'"),
        ({"scale": 0.0}, "scale: expected a number above 0, got 0.0"),
        ({"scale": float("nan")}, "scale: expected a number from 0 to inf, got nan"),
        ({"scale": float("inf")}, "scale: expected a number from 0 to inf, got inf"),
        ({"dropout": 1}, "dropout: expected a share below 1, got 1"),
        ({"dropout": -0.1}, "dropout: expected a number from 0 to 1, got -0.1"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(ValueError, match=f"^AdaptFormer, {message}$"):
        AdaptFormer(**values)
