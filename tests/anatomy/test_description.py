# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""An encoder that MONAI does not have is described once; a slip in the description shows, and files remember it."""

from __future__ import annotations

import copy
import dataclasses
import re
import zlib

import pytest
import torch
import torch.nn as nn

from monai_essa import adapt, add_adapter, lean, load_adapter, merge, save_adapter
from monai_essa.adapters.identity import encoder_facts
from monai_essa.anatomy import (
    BlockDescription,
    EncoderDescription,
    MapDescription,
    classification_network,
    describe,
    encoder_view,
)
from monai_essa.anatomy.blocks import transformer_blocks
from monai_essa.anatomy.parts import encoder_prefix, part_of
from monai_essa.methods import APLA, SSF, BitFit, ComponentTuning, FullTuning, LoRA
from monai_essa.pretext import MAE, MAEDecoder, SimMIM
from tests.anatomy.own_encoders import LAYOUTS, OwnMaps, OwnTokens, maps_anatomy, tokens_anatomy

IMAGES = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
GREY = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))


class Holder(nn.Module):
    """An encoder inside a network with a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder, self.mask_decoder = OwnMaps(), nn.Conv2d(6, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.mask_decoder(self.image_encoder(images))


def by_head(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Bring rows of queries, keys and values (3 x heads x d, ...) into the order of heads."""
    return rows.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)


def perturb(net: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def draw_alike(net: nn.Module) -> None:
    """Move what learns by values that depend on the component and not on the layer that computes it."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.requires_grad:
                component = re.sub(r"attn\.(qkv|q|k|v)\.", "attn.", name)
                component = component.replace("rows", "weight").replace("row_biases", "bias")
                generator = torch.Generator().manual_seed(zlib.crc32(component.encode()))
                drawn = 0.1 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn if "lora_" in name else parameter + drawn)


@pytest.mark.parametrize("method", [LoRA(rank=2, targets=("q", "v", "o", "mlp")), ComponentTuning("k")])
def test_layouts_of_queries_keys_and_values_learn_the_same(method):
    """One attention in three layouts computes the same, before and after the same update of the same component."""
    nets = {layout: OwnTokens(layout) for layout in LAYOUTS}
    state = nets["fused"].state_dict()
    for layout in ("by_head", "separate"):
        own = {name: tensor for name, tensor in state.items() if layout == "by_head" or ".qkv." not in name}
        for name in (name for name in state if ".qkv." in name):
            if layout == "by_head":
                own[name] = by_head(state[name], 4)
            else:
                own |= {name.replace("qkv", x): part for x, part in zip("qkv", state[name].chunk(3), strict=True)}
        nets[layout].load_state_dict(own)
    expected = nets["fused"](IMAGES)
    outputs = []
    for layout, net in nets.items():
        torch.testing.assert_close(net(IMAGES), expected)
        adapt(net, method, anatomy=tokens_anatomy(layout))
        draw_alike(net)
        outputs.append(net(IMAGES))
        torch.testing.assert_close(merge(net)(IMAGES), outputs[-1])
    assert not torch.allclose(outputs[0], expected, atol=1e-3)
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0])


def test_tokens_of_the_view_are_those_of_the_network_and_positions_follow_the_crop():
    net = OwnTokens()
    view = encoder_view(net, anatomy=tokens_anatomy())
    torch.testing.assert_close(view.encode_all(view.embed(IMAGES)), net.tokens(IMAGES))
    assert (view.patch_size, view.in_channels, view.hidden_size, view.native_grid) == ((8, 8), 2, 24, (2, 2))
    assert view.encode(view.embed(torch.rand(1, 2, 32, 16))).shape == (1, 8, 24)
    with pytest.raises(ValueError, match=r"multiple of \(8, 8\), got \(12, 16\)"):
        view.embed(torch.rand(1, 2, 12, 16))
    with pytest.raises(ValueError, match=r"^the description of OwnTokens says where its grid is; leave grid out$"):
        encoder_view(net, grid=(2, 2))


def test_maps_of_the_view_are_those_of_the_encoder_inside_its_network():
    net = describe(Holder(), dataclasses.replace(maps_anatomy(), prefix="image_encoder."))
    view = encoder_view(net)
    assert torch.equal(view.features(GREY)[-1], net.image_encoder(GREY)) and view.stride == (4, 4)
    assert encoder_prefix(net) == "image_encoder." and part_of(net, "mask_decoder.weight") == "decoder"
    assert [block.path for block in transformer_blocks(net)] == ["image_encoder.blocks.0", "image_encoder.blocks.1"]


def test_an_adapter_moves_between_an_encoder_and_a_network_with_it(tmp_path):
    net, inner = Holder().eval(), dataclasses.replace(maps_anatomy(), prefix="image_encoder.")
    alone = copy.deepcopy(net.image_encoder)
    file = save_adapter(perturb(adapt(net, APLA(columns=3), anatomy=inner)), tmp_path / "a.safetensors")
    load_adapter(alone, file, anatomy=maps_anatomy())
    assert torch.equal(alone(GREY), net.image_encoder(GREY))


def test_a_file_never_brings_a_description_along(tmp_path):
    base = OwnMaps().eval()
    net = adapt(copy.deepcopy(base), LoRA(rank=2), anatomy=maps_anatomy())
    file, expected = save_adapter(perturb(net), tmp_path / "a.safetensors"), net(GREY)
    with pytest.raises(ValueError, match=r"^[^\n]*a\.safetensors[^\n]*got OwnMaps; [^\n]*anatomy=$"):
        load_adapter(copy.deepcopy(base), file)
    other = maps_anatomy("fused")
    fresh = copy.deepcopy(base)
    with pytest.raises(ValueError, match=r"^[^\n]*a\.safetensors[^\n]*description blocks\.heads[^\n]*anatomy=[^\n]*$"):
        load_adapter(fresh, file, anatomy=other)
    loaded = load_adapter(fresh, file, anatomy=maps_anatomy())  # nothing of the refused one was kept
    assert torch.equal(loaded(GREY), expected)
    named = add_adapter(copy.deepcopy(base), "site_a", file, anatomy=maps_anatomy())
    assert torch.equal(named(GREY), expected)


def test_an_encoder_says_the_same_in_its_classifier(tmp_path):
    net = OwnTokens().eval()
    classifier = classification_network(copy.deepcopy(net), 5, anatomy=tokens_anatomy()).eval()
    expected = classifier.head(classifier.head_norm(net.tokens(IMAGES)[:, 0]))
    torch.testing.assert_close(classifier(IMAGES), expected)
    attended = classification_network(copy.deepcopy(net), 5, "attention", anatomy=tokens_anatomy()).eval()
    assert attended.pool(attended.encoder(IMAGES)).shape == (2, 24)
    assert encoder_facts(describe(net, tokens_anatomy())) == encoder_facts(classifier)
    assert not {name for name, _ in classifier.named_parameters() if "encoder.head" in name}

    file = save_adapter(perturb(adapt(net, APLA(columns=4))), tmp_path / "a.safetensors")
    for twin in (classifier, copy.deepcopy(classifier)):
        load_adapter(twin, file)
        torch.testing.assert_close(twin.encoder(IMAGES)[:, 0], net.tokens(IMAGES)[:, 0])
    assert copy.deepcopy(classifier).encoder.forward.args[0] is not classifier.encoder


@pytest.mark.parametrize(
    "make",
    [
        lambda net: MAE(net, decoder=MAEDecoder(24, 1, 4), anatomy=tokens_anatomy()),
        lambda net: SimMIM(net, mask_unit=8, anatomy=tokens_anatomy()),
    ],
    ids=["mae", "simmim"],
)
def test_objectives_on_described_tokens_see_visible_voxels_alone(make):
    net = adapt(OwnTokens(), APLA(), anatomy=tokens_anatomy())
    objective = make(net)
    prediction = objective.predict(IMAGES, torch.Generator().manual_seed(0))
    masked = objective.reconstruct(IMAGES, torch.Generator().manual_seed(0))["mask"].bool()
    noise = torch.where(masked, IMAGES + torch.randn_like(IMAGES), IMAGES)
    again = objective.predict(noise, torch.Generator().manual_seed(0))
    assert torch.equal(prediction.patches, again.patches)
    objective(IMAGES)["loss"].backward()
    assert all(block.attn.proj.weight.grad.abs().sum() > 0 for block in net.blocks)


def test_an_objective_on_described_maps_reaches_the_blocks():
    net = adapt(OwnMaps(), LoRA(rank=2, targets=("v",)), anatomy=maps_anatomy())
    SimMIM(net, mask_unit=8)(GREY)["loss"].backward()
    assert all(block.attn.qkv.lora_B["v"].grad.abs().sum() > 0 for block in net.blocks)


@pytest.mark.parametrize("recompute", ["mlp", "block"])
def test_lean_recomputes_described_blocks_and_gradients_stay(recompute):
    net = perturb(adapt(OwnTokens(), LoRA(rank=2, targets=("q", "mlp")), anatomy=tokens_anatomy()))
    twin = lean(copy.deepcopy(net), recompute=recompute)
    kept = [sum(_saved(each)) for each in (net, twin)]
    for parameter, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert parameter.grad is None or torch.equal(parameter.grad, other.grad)
    assert kept[1] < kept[0]


def _saved(net: nn.Module) -> list[int]:
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        loss = net(IMAGES).square().mean()
    loss.backward()
    return sizes


SLIPS = {
    "paths": (lambda d: _blocks(d, paths=r"layers\.\d"), r"no module matches the paths of blocks"),
    "output": (lambda d: _blocks(d, output="attn.out"), r"'blocks\.0\.attn\.out' is no linear layer"),
    "norm for a layer": (lambda d: _blocks(d, output="norm1"), r"'blocks\.0\.norm1' is no linear layer"),
    "heads": (lambda d: _blocks(d, heads="attn.layout"), r"72 rows of 'blocks\.0\.attn\.qkv'"),
    "two of three": (lambda d: _blocks(d, qkv=("attn.qkv", "attn.proj")), r"one or three layers of qkv"),
    "patches": (lambda d: _output(d, patch_embedding="last_norm"), r"'last_norm' is no convolution"),
    "positions": (lambda d: _output(d, positions="pos_embed"), r"it has no 'pos_embed'"),
    "registers left out": (lambda d: _output(d, prefix_tokens=("first",)), r"7 positions, for 1 prefix tokens and 4"),
    "norm left out": (lambda d: _output(d, final_norm=""), r"does not say where 'last_norm\.weight' is used"),
    "head left out": (lambda d: dataclasses.replace(d, head=""), r"does not say where 'head\.weight' is used"),
    "prefix": (lambda d: dataclasses.replace(d, prefix="vit."), r"prefix 'vit\.' is not the path"),
}


def _blocks(anatomy: EncoderDescription, **changes) -> EncoderDescription:
    return dataclasses.replace(anatomy, blocks=dataclasses.replace(anatomy.blocks, **changes))


def _output(anatomy: EncoderDescription, **changes) -> EncoderDescription:
    return dataclasses.replace(anatomy, output=dataclasses.replace(anatomy.output, **changes))


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_a_description_is_refused_in_one_line(slip):
    change, why = SLIPS[slip]
    net = OwnTokens()
    with pytest.raises(ValueError, match=rf"^the description does not fit OwnTokens: [^\n]*{why}[^\n]*$"):
        adapt(net, APLA(), anatomy=change(tokens_anatomy()))
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert adapt(net, APLA(), anatomy=tokens_anatomy()) is net


def test_what_is_no_description_and_a_second_description_are_refused():
    with pytest.raises(TypeError, match="anatomy: expected an EncoderDescription, got str"):
        adapt(OwnTokens(), APLA(), anatomy="timm")
    net = describe(OwnTokens(), tokens_anatomy())
    with pytest.raises(ValueError, match=r"^OwnTokens has another description already[^\n]*$"):
        describe(net, _blocks(tokens_anatomy(), norms=()))


def test_full_and_bias_tuning_reach_the_encoder_and_leave_the_head():
    for method in (FullTuning(), BitFit()):
        net = adapt(OwnTokens(), method, anatomy=tokens_anatomy())
        learning = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
        assert "last_norm.bias" in learning and not {name for name in learning if name.startswith("head.")}
    assert "places" not in learning


class StockAttention(nn.Module):
    """An encoder around torch's attention, which reads the weight of its output projection and never calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 8, 4, 4), nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16)])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](self.stem(images).flatten(2).mT).mT.unflatten(2, (4, 4))


def test_layers_that_an_attention_reads_itself_take_no_adapter():
    maps = MapDescription(in_channels=1, channels=8, stride=(4, 4))
    net = adapt(StockAttention(), SSF(), anatomy=EncoderDescription(maps))
    scaled = {path for path, module in net.named_modules() if hasattr(module, "ssf_scale")}
    assert scaled == {"stem"}
    blocks = BlockDescription(r"blocks\.\d", ("linear1",), "self_attn.out_proj")
    with pytest.raises(ValueError, match=r"^[^\n]*'blocks\.0\.linear1' is a layer whose weight torch's own[^\n]*$"):
        adapt(StockAttention(), APLA(), anatomy=EncoderDescription(maps, blocks))


def test_a_description_from_yaml_equals_one_from_python():
    ours = LAYOUTS["fused"]
    lists = {name: list(value) for name, value in vars(ours).items() if isinstance(value, tuple)}
    assert dataclasses.replace(ours, **lists) == ours
    assert MapDescription(1, 6, [4, 4]) == MapDescription(1, 6, (4, 4))
