# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A layer of the peft package under plain names."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn as nn

from monai_essa.methods.method import AdapterLayer, NotMergeable
from monai_essa.methods.peft_library import PeftLayer

peft = pytest.importorskip("peft", reason="needs the peft package: pip install monai_essa[peft]")

CONFIGS = {
    "lora": lambda: peft.LoraConfig(r=2, lora_dropout=0.5, target_modules=["0"]),
    "dora": lambda: peft.LoraConfig(r=2, lora_dropout=0.5, use_dora=True, target_modules=["0"]),
    "ia3": lambda: peft.IA3Config(target_modules=["0"], feedforward_modules=[]),
}
PLAIN = {"linear": lambda: nn.Linear(6, 8), "conv": lambda: nn.Conv3d(3, 8, 3, padding=1)}
IMAGES = {"linear": (4, 6), "conv": (2, 3, 4, 4, 4)}


def made(config: str, kind: str = "linear", plain: nn.Module | None = None) -> PeftLayer:
    """A layer in eval mode whose learned tensors have moved."""
    plain = PLAIN[kind]() if plain is None else plain
    net = peft.inject_adapter_in_model(CONFIGS[config](), nn.Sequential(plain))
    layer = PeftLayer(net[0])
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name not in ("weight", "bias"):
                parameter.add_(0.3 * torch.rand_like(parameter))
    return layer.eval()


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("config", CONFIGS)
def test_weight_and_bias_keep_their_names(config, kind):
    plain = PLAIN[kind]()
    layer = made(config, plain=plain)
    assert isinstance(layer, AdapterLayer)
    assert list(layer.state_dict())[:2] == ["weight", "bias"]
    assert not any("base_layer" in name for name in layer.state_dict())
    assert layer.weight is plain.weight and layer.plain() is plain


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("config", CONFIGS)
def test_merged_layer_is_plain_and_computes_the_same(config, kind):
    layer, x = made(config, kind), torch.randn(IMAGES[kind])
    before = layer.weight.clone()
    merged = layer.merged()
    assert type(merged) is type(PLAIN[kind]()) and list(merged.state_dict()) == ["weight", "bias"]
    torch.testing.assert_close(merged(x), layer(x), rtol=1e-5, atol=1e-5)
    assert not torch.equal(merged.weight, before) and torch.equal(layer.weight, before)


@pytest.mark.parametrize("config", CONFIGS)
def test_copy_is_independent_and_whole(config):
    layer, x = made(config), torch.randn(4, 6)
    twin, expected = copy.deepcopy(layer), layer(x)
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert torch.equal(layer(x), expected) and not torch.allclose(twin(x), expected)
    torch.testing.assert_close(twin(x), twin.merged()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_moves_to_another_type_as_one(config):
    layer, x = made(config).to(torch.float64), torch.randn(4, 6, dtype=torch.float64)
    assert layer(x).dtype == torch.float64
    torch.testing.assert_close(layer.merged()(x), layer(x))


@pytest.mark.parametrize("config", CONFIGS)
def test_tensors_that_torch_func_replaces_are_those_that_compute(config):
    layer, x = made(config), torch.randn(4, 6)
    doubled = {"weight": 2 * layer.weight, "bias": 2 * layer.bias}
    expected = copy.deepcopy(layer)
    with torch.no_grad():
        expected.weight.mul_(2)
        expected.bias.mul_(2)
    torch.testing.assert_close(torch.func.functional_call(layer, doubled, (x,)), expected(x))


@pytest.mark.parametrize("config", ["lora", "dora"])
def test_dropout_follows_the_mode(config):
    layer, x = made(config), torch.randn(4, 6)
    assert torch.equal(layer(x), layer(x))
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.parametrize("kind", PLAIN)
def test_dora_starts_from_a_plain_state_that_is_loaded_later(kind):
    net = peft.inject_adapter_in_model(CONFIGS["dora"](), nn.Sequential(PLAIN[kind]()))
    layer, other, x = PeftLayer(net[0]).eval(), PLAIN[kind](), torch.randn(IMAGES[kind])
    keys = layer.load_state_dict(other.state_dict(), strict=False)
    assert not keys.unexpected_keys
    torch.testing.assert_close(layer(x), other(x), rtol=1e-6, atol=1e-6)


def test_own_state_keeps_the_magnitudes_of_dora():
    layer, x = made("dora"), torch.randn(4, 6)
    other = made("dora")
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("config", CONFIGS)
def test_adapted_layer_can_be_traced_and_exported(config):
    net, x = nn.Sequential(made(config)), torch.randn(4, 6)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(net, x)
        exported = torch.export.export(net, (x,)).module()
    for each in (traced, exported):
        torch.testing.assert_close(each(x), net(x))


def test_layer_that_peft_cannot_merge_says_how_to_export():
    # peft merges pointwise convolutions in 2-D only.
    layer = made("lora", plain=nn.Conv3d(3, 8, 1))
    with pytest.raises(NotMergeable, match=r"^Conv3d of peft cannot be merged into Conv3d\(.*torch\.export[^\n]*$"):
        layer.merged()


def test_layer_with_tensors_outside_containers_is_refused():
    net = peft.inject_adapter_in_model(CONFIGS["lora"](), nn.Sequential(nn.Linear(8, 8)))
    net[0].register_buffer("table", torch.zeros(2))
    with pytest.raises(ValueError, match="Linear of peft keeps 'table' outside containers"):
        PeftLayer(net[0])
