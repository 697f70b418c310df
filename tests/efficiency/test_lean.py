# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Lean training: equal outputs, equal gradients, plain network back."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from monai.networks.nets import UNETR, SegResNet, SwinUNETR, ViT

from monai_essa import adapt, disable_adapter, lean, load_adapter, load_weights, merge, save_adapter
from monai_essa.anatomy.lean_marks import LeanForward
from monai_essa.methods import APLA, VPT, AdaptFormer, BitFit, FullTuning, LoRA

NETWORKS = {
    "ViT": lambda: ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=3, num_heads=4, qkv_bias=True),
    "ViT classification, 2-D": lambda: ViT(
        1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4, classification=True, spatial_dims=2
    ),
    "UNETR": lambda: UNETR(1, 2, 32, 4, 48, 96, 4),
    "SwinUNETR, 2-D": lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(2, 1, 1, 1)),
    "SegResNet": lambda: SegResNet(3, 8),
}
IMAGES = {"SwinUNETR, 2-D": (1, 1, 96, 96), "ViT classification, 2-D": (2, 1, 32, 32)}
METHODS = {"APLA": APLA, "APLA, some columns": lambda: APLA(0.25), "LoRA": LoRA, "BitFit": BitFit, "full": FullTuning}
RECIPES = {
    "fast": {},
    "mlp": {"recompute": "mlp"},
    "small": {"recompute": "block"},
    "small, stock attention": {"attention": "stock", "recompute": "block"},
}


def images_of(name):
    return torch.rand(*IMAGES.get(name, (1, 1, 32, 32, 32)), generator=torch.Generator().manual_seed(1))


def twins(name, method, dtype=torch.float32):
    torch.manual_seed(0)
    net = adapt(NETWORKS[name](), method).to(dtype).train()
    return net, copy.deepcopy(net), images_of(name).to(dtype)


def assert_equal_training(net, twin, images):
    (expected, theirs), (output, ours) = step(net, images), step(twin, images)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    assert ours.keys() == theirs.keys() and distance(ours, theirs) < 1e-10


def step(net, images):
    """Output, and the gradients of a loss in which no output cancels another."""
    net.zero_grad(set_to_none=True)
    output = net(images)
    output = output[0] if isinstance(output, tuple) else output
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output.dtype)
    (output * weight).sum().backward()
    return output.detach(), {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def distance(one, other):
    """Of the gradients as one vector, relative to its length."""
    squares = sum((one[name] - other[name]).double().square().sum() for name in other)
    return float((squares / sum(value.double().square().sum() for value in other.values())).sqrt())


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_plain_training(name, recipe):
    method = BitFit() if name == "SegResNet" else LoRA() if recipe == "mlp" else APLA(0.5)
    net, twin, images = twins(name, method, torch.float64)
    assert_equal_training(net, lean(twin, **RECIPES[recipe]), images)


@pytest.mark.slow
@pytest.mark.parametrize(
    "also_train",
    [
        pytest.param((), id="decoder frozen", marks=pytest.mark.full),  # that of UNETR, of volumes too, is above
        pytest.param((r"(?!swinViT\.).*",), id="decoder learns"),
    ],
)
def test_a_swin_unetr_of_volumes_trains_alike(also_train):
    """Slow: attention in windows of 343 positions, in double precision."""
    network = SwinUNETR(1, 2, feature_size=12, depths=(2, 1, 1, 1))
    net = adapt(network, APLA(), also_train=also_train).double().train()
    images = torch.rand(1, 1, 64, 64, 32, dtype=torch.float64)
    assert_equal_training(net, lean(copy.deepcopy(net), recompute="block"), images)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["ViT", "UNETR", "SwinUNETR, 2-D"])
def test_in_fp32_they_are_as_near_to_the_truth_as_plain_training(name, method):
    """Swin's gradients from random weights are ill-conditioned: plain training itself is up to 1e-3 off there."""
    net, twin, images = twins(name, METHODS[method]())
    expected, truth = step(copy.deepcopy(net).double(), images.double())
    (output, theirs), (lean_output, ours) = step(net, images), step(lean(twin, recompute="block"), images)
    assert (lean_output - output).norm() <= 2e-6 * output.norm()
    assert distance(ours, truth) <= 1.5 * distance(theirs, truth) + 1e-6


def test_recomputing_alone_changes_no_bit():
    net, twin, images = twins("ViT", APLA())
    (expected, theirs), (output, ours) = step(lean(net), images), step(lean(twin, recompute="block"), images)
    assert torch.equal(output, expected) and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", ["ViT", "UNETR", "SwinUNETR, 2-D"])
def test_bf16_recipe_is_as_near_to_the_truth_as_plain_autocast(name):
    net, twin, images = twins(name, APLA())
    expected, truth = step(net, images)
    lean(twin, recompute="block", frozen_dtype=torch.bfloat16, residual_dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        (output, theirs), (lean_output, ours) = step(net, images), step(twin, images)
    assert (lean_output - expected).norm() <= 1.2 * (output - expected).norm()
    assert distance(ours, truth) <= 1.2 * distance(theirs, truth)


def test_bf16_recipe_has_the_direction_of_fp32():
    net, twin, images = twins("ViT", APLA())
    expected, truth = step(net, images)
    lean(twin, recompute="block", frozen_dtype=torch.bfloat16, residual_dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        output, ours = step(twin, images)
    one, other = (torch.cat([grads[key].flatten() for key in truth]) for grads in (ours, truth))
    assert (output - expected).norm() <= 1e-2 * expected.norm() and distance(ours, truth) <= 1e-2
    assert torch.nn.functional.cosine_similarity(one, other, 0) > 0.999


def test_stored_weights_also_work_without_autocast():
    _, net, images = twins("UNETR", APLA())
    expected, _ = step(net, images)
    output, _ = step(lean(net, frozen_dtype=torch.bfloat16), images)
    assert (output - expected).norm() <= 3e-2 * expected.norm()


@pytest.mark.parametrize(
    "method", [VPT(tokens=3), AdaptFormer(bottleneck=4, dropout=0)], ids=lambda method: type(method).__name__
)
def test_methods_that_replace_blocks_are_lean_too(method):
    net, twin, images = twins("UNETR", method, torch.float64)
    assert_equal_training(net, lean(twin, recompute="block"), images)
    with disable_adapter(net), disable_adapter(twin):
        torch.testing.assert_close(twin(images), net(images), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_key_and_no_class_changes_and_off_undoes_it(name):
    net, twin, images = twins(name, BitFit() if name == "SegResNet" else APLA(0.5))
    lean(twin, recompute="block", frozen_dtype=torch.bfloat16)
    assert twin.state_dict().keys() == net.state_dict().keys()
    assert [type(module) for module in twin.modules()] == [type(module) for module in net.modules()]
    assert lean(twin, off=True) is twin
    assert not any(isinstance(vars(module).get("forward"), LeanForward) for module in twin.modules())
    assert all(torch.equal(net.state_dict()[key], value) for key, value in twin.state_dict().items())
    assert torch.equal(step(twin, images)[0], step(net, images)[0])


def test_calling_it_again_replaces_the_first_choice():
    _, net, images = twins("ViT", APLA())
    once = step(lean(copy.deepcopy(net)), images)[0]
    assert torch.equal(step(lean(lean(net, recompute="block", frozen_dtype=torch.bfloat16)), images)[0], once)
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())


@pytest.mark.parametrize("name", ["ViT", "UNETR", "SwinUNETR, 2-D"])
def test_merge_gives_the_plain_network_in_fp32(name):
    net, twin, images = twins(name, APLA())
    lean(twin, recompute="block", frozen_dtype=torch.bfloat16)
    plain = merge(twin)
    assert not any("forward" in vars(module) for module in plain.modules())
    expected = merge(net).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in plain.state_dict().items())
    assert any(parameter.dtype == torch.bfloat16 for parameter in twin.parameters())


def test_adapter_files_do_not_know_of_it(tmp_path):
    net, twin, images = twins("UNETR", APLA(0.25))
    lean(twin, recompute="block", frozen_dtype=torch.bfloat16)
    save_adapter(net, tmp_path / "plain.safetensors")
    save_adapter(twin, tmp_path / "lean.safetensors")
    load_adapter(twin, tmp_path / "plain.safetensors")
    torch.manual_seed(0)
    fresh = load_adapter(NETWORKS["UNETR"](), tmp_path / "lean.safetensors")
    assert torch.equal(step(fresh, images)[0], step(net, images)[0])


def test_training_with_it_leaves_frozen_tensors_bit_identical():
    _, net, images = twins("UNETR", APLA())
    before = {name: value.clone() for name, value in net.named_parameters() if not value.requires_grad}
    lean(net, recompute="block", frozen_dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2, fused=True)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            step(net, images)
        optimizer.step()
    lean(net, off=True)
    assert all(torch.equal(value, net.get_parameter(name)) for name, value in before.items())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"attention": "flash"}, "expected attention to be one of sdpa, stock, got 'flash'"),
        ({"recompute": "all"}, "expected recompute to be one of none, mlp, block, got 'all'"),
        ({"residual_dtype": torch.bfloat16}, "residual_dtype needs recompute='block', got 'none'"),
    ],
)
def test_unknown_choices_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        lean(NETWORKS["ViT"](), **choice)


def test_each_step_refuses_a_network_on_which_lean_has_run(tmp_path):
    net = lean(NETWORKS["UNETR"]().requires_grad_(False))
    modules, before = list(net.modules()), copy.deepcopy(net.state_dict())
    torch.save(NETWORKS["UNETR"]().state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="^UNETR is lean, and lean comes after adapt"):
        adapt(net, APLA(), also_train=["decoder.*"])
    with pytest.raises(ValueError, match="^UNETR is lean, and lean comes after load_weights"):
        load_weights(net, tmp_path / "other.pt")
    assert list(net.modules()) == modules and not any(p.requires_grad for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("name", "method", "later", "recipe"),
    [
        ("UNETR", APLA(), "(decoder|encoder).*", "fast"),
        ("UNETR", APLA(), "vit.*", "small"),
        ("SwinUNETR, 2-D", LoRA(), ".*", "small"),
        ("SegResNet", BitFit(), ".*", "fast"),
        ("ViT", APLA(0.5), ".*norm.*", "mlp"),
    ],
)
def test_what_is_unfrozen_after_lean_learns_as_in_plain_training(name, method, later, recipe):
    net, twin, images = twins(name, method, torch.float64)
    lean(twin, **RECIPES[recipe])
    for network in (net, twin):
        for path, parameter in network.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or re.fullmatch(later, path) is not None)
    assert_equal_training(net, twin, images)


def test_a_stored_weight_that_is_unfrozen_is_refused_until_lean_is_called_again():
    net, twin, images = twins("UNETR", APLA())
    lean(twin, frozen_dtype=torch.bfloat16)
    for network in (net, twin):
        network.decoder5.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"^the weight of ConvTranspose3d\(.* learns, but lean[^\n]*$"):
        twin(images)
    gradients = [step(network, images)[1] for network in (lean(net), lean(twin))]
    assert {name for name in gradients[1] if name.startswith("decoder5.")}
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_that_is_converted_while_lean_is_whole_in_the_new_format(dtype):
    net, twin, _ = twins("UNETR", APLA(5))
    lean(lean(twin, frozen_dtype=torch.bfloat16).to(dtype), off=True)
    assert {value.dtype for value in twin.parameters()} == {dtype}
    expected = net.to(dtype).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in twin.state_dict().items())
