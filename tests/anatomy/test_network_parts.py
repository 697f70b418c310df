# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Encoder, decoder and head by name, and the layers of an encoder."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import (
    UNETR,
    BasicUNet,
    DenseNet,
    DynUNet,
    ResNet,
    SegResNet,
    SegResNetDS,
    SegResNetDS2,
    SegResNetVAE,
    SwinUNETR,
    UNet,
    ViT,
)

from monai_essa import adapt, load_weights
from monai_essa.anatomy import classification_network, encoder_view
from monai_essa.anatomy.blocks import transformer_blocks
from monai_essa.anatomy.parts import (
    check_known,
    dead_parameters,
    decoder_pattern,
    encoder_layers,
    encoder_prefix,
    part_of,
    undone_layers,
    unwrapped,
)
from monai_essa.methods import APLA, SSF, BitFit, FullTuning, HeadOnly, LoRA, PeftLibrary, choose_columns
from monai_essa.pretext import MAE, SimMIM

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
    both = SegResNetDS2(3, init_filters=8, blocks_down=(1, 1, 1), dsdepth=2)
    assert [part_of(both, f"up_layers_auto.1.{name}") for name in ("head.weight", "blocks.0.conv1.weight")] == [
        "head",
        "decoder",
    ]


def test_the_own_classifier_of_a_resnet_and_a_densenet_is_its_head():
    for net, head in ((CLASSIFIERS["resnet"](), "fc."), (CLASSIFIERS["densenet"](), "class_layers.")):
        names = [name for name, _ in net.named_parameters()]
        assert {name for name in names if part_of(net, name) == "head"} == {
            name for name in names if name.startswith(head)
        }
        assert {part_of(net, name) for name in names} == {"encoder", "head"}


def vit() -> ViT:
    return ViT(1, 16, 8, 24, 48, 1, 4)


CLASSIFIERS = {
    "vit": vit,
    "unetr": lambda: UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2),
    "swin": lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2),
    "segresnet-dropout": lambda: SegResNet(2, 8, dropout_prob=0.1, blocks_down=(1, 1), blocks_up=(1,)),
    **{kind: CNNS[kind] for kind in ("segresnet", "segresnet-ds", "unet")},
    "resnet": lambda: ResNet("basic", [1, 1, 1, 1], [4, 4, 4, 4], 2, 1),
    "densenet": lambda: DenseNet(2, 1, 2, 8, 4, (1, 1), 2),
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_pattern_of_the_decoder_matches_what_is_outside_the_encoder(kind):
    net = CLASSIFIERS[kind]()
    names = {name for name, _ in net.named_parameters()}
    outside = {name for name in names if part_of(net, name) != "encoder"}
    assert {name for name in names if re.fullmatch(decoder_pattern(net), name)} == outside < names


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifier_is_an_encoder_and_a_head(kind, tmp_path):
    net = classification_network(CLASSIFIERS[kind](), 2)
    assert encoder_prefix(net) == "encoder."
    parts = {part_of(net, name) for name, _ in net.named_parameters() if name.startswith("encoder.")}
    assert (parts, part_of(net, "head_norm.bias"), part_of(net, "head.weight")) == ({"encoder"}, "head", "head")
    torch.save(net.state_dict(), tmp_path / "model.pt")
    assert load_weights(net, tmp_path / "model.pt").encoder_share == 1
    assert part_of(adapt(net, FullTuning()), "head.weight") == "head"


class WithExtra(ViT):
    """A network of somebody else on top of a known class."""

    def __init__(self) -> None:
        super().__init__(1, 16, 8, 24, 48, 1, 4, classification=True)
        self.age_head = nn.Linear(24, 1)


def test_subclass_is_known_and_what_it_adds_is_no_encoder():
    net = WithExtra()
    assert part_of(net, "age_head.bias") == "decoder" and part_of(net, "cls_token") == "encoder"
    assert not {name for name in BitFit().claims(net) if "head" in name}
    vae = SegResNetVAE((16, 16, 16), init_filters=8, blocks_down=(1, 1), blocks_up=(1,))
    encoder = {name.partition(".")[0] for name, _ in vae.named_parameters() if part_of(vae, name) == "encoder"}
    assert encoder == {"convInit", "down_layers"}
    assert part_of(vae, "conv_final.0.weight") == "head" and part_of(vae, "vae_conv_final.conv.weight") == "decoder"


def _sequence(**children: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(children))


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "basic-unet": lambda: BasicUNet(2, 1, 2, features=(4, 4, 4, 4, 4, 4)),
    "dynunet": lambda: DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8]),
    "container": lambda: nn.Sequential(vit()),
    "own-classifier": lambda: _sequence(encoder=vit(), norm=nn.LayerNorm(24), head=nn.Linear(24, 2)),
    "own-encoder": lambda: _sequence(
        encoder=nn.Sequential(nn.Conv2d(1, 8, 3)), pool=nn.Identity(), head_norm=nn.LayerNorm(8), head=nn.Linear(8, 2)
    ),
    "submodule": lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2).swinViT,
}
ENTRIES: dict[str, Callable[[nn.Module], object]] = {
    **{
        f"adapt-{type(method).__name__}": lambda net, method=method: adapt(net, method)
        for method in (APLA(), LoRA(targets=("conv",)), BitFit(), SSF(), FullTuning())
    },
    "adapt-head": lambda net: adapt(net, HeadOnly(), also_train=[".*"]),
    "encoder-view": encoder_view,
    "mae": MAE,
    "simmim": SimMIM,
    "classifier": lambda net: classification_network(net, 2),
    "columns": lambda net: choose_columns(net, 1),
    "blocks": transformer_blocks,
    "layers": lambda net: encoder_layers(net, (nn.Conv2d,)),
    "parts": check_known,
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", UNKNOWN)
def test_unknown_network_is_refused_in_one_line_that_names_the_known_ones(kind, entry):
    net = UNKNOWN[kind]()
    modules, learning = list(net.modules()), [parameter.requires_grad for parameter in net.parameters()]
    name = type(net).__name__
    with pytest.raises(
        TypeError, match=rf"^expected a ViT, .*SegResNetDS, UNet, ResNet, DenseNet or .*, got {name}; pass the [^\n]*$"
    ):
        ENTRIES[entry](net)
    assert list(net.modules()) == modules
    assert [parameter.requires_grad for parameter in net.parameters()] == learning


@pytest.mark.parametrize("kind", UNKNOWN)
def test_weights_and_methods_of_peft_refuse_an_unknown_network_too(kind, tmp_path):
    net = UNKNOWN[kind]()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(TypeError, match=f"got {type(net).__name__}; pass the network itself"):
        load_weights(net, tmp_path / "net.pt")
    pytest.importorskip("peft")
    with pytest.raises(TypeError, match=f"got {type(net).__name__}; pass the network itself"):
        adapt(net, PeftLibrary({"peft_type": "LORA", "target_modules": ".*"}))


def test_classifier_has_no_view_but_its_network_has():
    with pytest.raises(TypeError, match=re.escape("got a classifier (Sequential); pass the network that it was made")):
        encoder_view(classification_network(vit(), 2))


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
