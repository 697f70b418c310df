# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What every method does on every network. A new method or network joins by one line in METHODS or NETWORKS."""

from __future__ import annotations

import copy
import functools
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import (
    UNETR,
    DenseNet,
    MaskedAutoEncoderViT,
    ResNet,
    SegResNet,
    SegResNetDS,
    SegResNetDS2,
    SwinUNETR,
    UNet,
    ViT,
    ViTAutoEnc,
)

from monai_essa import (
    adapt,
    add_adapter,
    disable_adapter,
    load_adapter,
    merge,
    remove_adapter,
    save_adapter,
    set_adapter,
    summary,
)
from monai_essa.adapters.adapted import adaptation_of
from monai_essa.anatomy import classification_network, describe
from monai_essa.anatomy.parts import dead_parameters
from monai_essa.methods import (
    APLA,
    SSF,
    VPT,
    AdaptFormer,
    BitFit,
    ComponentTuning,
    FullTuning,
    HeadOnly,
    LoRA,
    NormTuning,
    PeftLibrary,
)
from monai_essa.methods.method import AdaptationMethod, AdapterLayer, NotMergeable
from tests.anatomy.own_encoders import OwnMaps, OwnTokens, maps_anatomy, tokens_anatomy
from tests.forked import run_ranks

SWIN_2D = functools.partial(SwinUNETR, 1, 2, feature_size=12, spatial_dims=2, depths=(2, 1, 1, 1))
SWIN_3D = functools.partial(
    SwinUNETR, 1, 2, feature_size=12, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1), window_size=4
)
NETWORKS = {
    "vit-3d": (lambda: ViT(1, 32, 16, 24, 48, 2, 4), (1, 1, 32, 32, 32)),
    "vit-2d-cls": (
        lambda: ViT(2, 16, 8, 24, 48, 2, 4, classification=True, spatial_dims=2, qkv_bias=True),
        (2, 2, 16, 16),
    ),
    "vitautoenc-2d": (lambda: ViTAutoEnc(1, 32, 16, 1, 4, 24, 48, 2, 4, spatial_dims=2), (1, 1, 32, 32)),
    "vitautoenc-3d": (lambda: ViTAutoEnc(1, 32, 16, 1, 4, 24, 48, 2, 4), (1, 1, 32, 32, 32)),
    "mae-2d": (lambda: MaskedAutoEncoderViT(1, 32, 8, 24, 48, 2, 4, 0.5, 24, 48, 1, 4, spatial_dims=2), (1, 1, 32, 32)),
    "mae-3d": (lambda: MaskedAutoEncoderViT(1, 32, 16, 24, 48, 2, 4, 0.5, 24, 48, 1, 4), (1, 1, 32, 32, 32)),
    "unetr-2d": (lambda: UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2), (1, 1, 32, 32)),
    "unetr-3d": (lambda: UNETR(1, 2, (32, 32, 16), 4, 24, 48, 4, qkv_bias=True), (1, 1, 32, 32, 16)),
    "swin-2d": (SWIN_2D, (1, 1, 64, 32)),
    "swin-v2-2d": (lambda: SWIN_2D(use_v2=True), (1, 1, 64, 32)),
    "swin-3d": (SWIN_3D, (1, 1, 64, 32, 32)),
    "swin-v2-3d": (lambda: SWIN_3D(use_v2=True), (1, 1, 64, 32, 32)),
    "segresnet-2d": (lambda: SegResNet(2, 8, blocks_down=(1, 1), blocks_up=(1,)), (1, 1, 16, 16)),
    "segresnet-3d": (lambda: SegResNet(3, 8, blocks_down=(1, 1), blocks_up=(1,)), (1, 1, 16, 16, 16)),
    "segresnet-ds-3d": (lambda: SegResNetDS(3, 8, blocks_down=(1, 1), dsdepth=1), (2, 1, 16, 16, 16)),
    "segresnet-ds2-3d": (lambda: SegResNetDS2(3, 8, blocks_down=(1, 1), dsdepth=1), (2, 1, 16, 16, 16)),
    "unet-3d": (lambda: UNet(3, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1), (1, 1, 16, 16, 16)),
    "unet-affine-2d": (
        lambda: UNet(2, 1, 2, channels=(4, 8, 8), strides=(2, 2), norm=("instance", {"affine": True})),
        (1, 1, 16, 16),
    ),
    "resnet-3d": (
        lambda: ResNet("basic", [1, 1, 1, 1], [4, 8, 8, 8], 3, 1, no_max_pool=True, num_classes=2),
        (2, 1, 16, 16, 8),
    ),
    "resnet-2d": (
        lambda: ResNet("bottleneck", [1, 1, 1, 1], [4, 4, 4, 4], 2, 2, feed_forward=False, bias_downsample=False),
        (2, 2, 32, 32),
    ),
    "densenet-3d": (lambda: DenseNet(3, 1, 2, 8, 4, (1, 1), 2), (2, 1, 16, 16, 8)),
    "densenet-2d": (lambda: DenseNet(2, 2, 2, 8, 4, (1, 2), 2), (2, 2, 16, 16)),
    "classifier-vit-2d": (
        lambda: classification_network(ViT(1, 16, 8, 24, 48, 2, 4, spatial_dims=2), 3),
        (1, 1, 16, 16),
    ),
    "classifier-segresnet-2d": (
        lambda: classification_network(SegResNet(2, 8, blocks_down=(1, 1), blocks_up=(1,)), 3),
        (1, 1, 16, 16),
    ),
    "classifier-resnet-2d": (
        lambda: classification_network(ResNet("basic", [1, 1, 1, 1], [4, 4, 4, 8], 2, 1), 3),
        (2, 1, 32, 32),
    ),
    "described-vit-2d": (lambda: describe(OwnTokens(), tokens_anatomy()), (2, 2, 16, 16)),
    "described-swin-2d": (lambda: describe(OwnMaps(), maps_anatomy()), (2, 1, 16, 16)),
}


@dataclass(frozen=True)
class Row:
    """A method, or several that compose, and what it can do; patterns are searched in the names of the networks.

    Attributes:
        method: as it is given to ``adapt``.
        fits: the networks that it fits; it is refused on all others.
        shown_on: the networks on which ``make test`` checks the whole contract; on the others that it fits, its start
            alone, and ``make test-all`` the rest. A variant of a method whose layers another row has everywhere needs
            two or three.
        starts_at_base: whether the adapted network computes, before training, what its base computes.
        merges: whether it can be folded into plain layers.
    """

    method: AdaptationMethod | Sequence[AdaptationMethod]
    fits: str = ""
    shown_on: str = ""
    starts_at_base: bool = True
    merges: bool = True


ATTENTION = "vit|mae|unetr|swin"
TOKENS = "vit|mae|unetr"
NORMED = ATTENTION + "|resnet|densenet|affine"  # a UNet's own norms have no parameters
LINEAR = r"(layers\d\.0\.)?blocks\.\d+\.(attn\.qkv|mlp\.linear1)"
TWO = "^vit-2d-cls|swin-v2-2d"
FEW = "^vit-3d|unetr-2d|swin-2d|classifier-vit"
METHODS = {
    "apla": Row(APLA(), ATTENTION, FEW),
    "apla-columns": Row(APLA(columns=3, seed=5), ATTENTION),
    "apla-fraction": Row(APLA(columns=0.25), ATTENTION, TWO),
    "apla-given": Row(APLA(columns={0: [1, 4], 1: [0]}), ATTENTION, TWO),
    "lora": Row(LoRA(rank=2, alpha=4), ATTENTION, FEW),
    "lora-ffa": Row(LoRA(rank=2, freeze_a=True), ATTENTION, "^vit-3d|swin-2d"),
    "lora-all": Row(LoRA(rank=2, targets=("q", "k", "v", "o", "mlp")), ATTENTION),
    "adaptformer": Row(AdaptFormer(bottleneck=4), ATTENTION, merges=False),
    "vpt": Row(VPT(tokens=2), TOKENS, starts_at_base=False, merges=False),
    "vpt-shallow": Row(VPT(tokens=2, deep=False), TOKENS, starts_at_base=False, merges=False),
    "ssf": Row(SSF()),
    "bitfit": Row(BitFit(), NORMED + "|unet-3d", FEW + "|mae|resnet|densenet-2d|unet-"),
    "norms": Row(NormTuning(), NORMED, FEW + "|mae-2d|-segresnet|^segresnet|resnet-3d|densenet-3d|unet-"),
    "component-v": Row(ComponentTuning("v"), ATTENTION, TWO + "|mae-3d|unetr-3d"),
    "component-mlp_out": Row(ComponentTuning("mlp_out"), ATTENTION, TWO),
    "component-patch_embedding": Row(
        ComponentTuning("patch_embedding"), TOKENS + "|^swin", FEW + "|mae-2d|vitautoenc-2d"
    ),
    "lora-conv": Row(LoRA(rank=2, targets=("conv",)), "", "^vit-3d|unetr-2d|swin-2d|resnet|densenet|unet-"),
    "peft-dora": Row(
        PeftLibrary({"peft_type": "LORA", "r": 2, "use_dora": True, "target_modules": LINEAR}), ATTENTION, TWO
    ),
    "peft-conv": Row(
        PeftLibrary(
            {
                "peft_type": "LORA",
                "r": 2,
                "target_modules": r"down_layers.*conv\d\.conv|(layers?\d?|denseblock\d)\..*conv2",
            }
        ),
        "resnet|densenet",
        "-segresnet|ds-3d|resnet-2d|densenet-2d",
    ),
    "full": Row(FullTuning(), "", FEW + "|mae-3d|vitautoenc|-segresnet|^segresnet|resnet-2d|densenet-2d|unet-"),
    "lora+bitfit": Row([LoRA(rank=2, targets=("q", "mlp")), BitFit()], ATTENTION, TWO + "|unetr-3d"),
    "apla+lora": Row([APLA(columns=3), LoRA(rank=2)], ATTENTION, TWO + "|mae-2d"),
    "adaptformer+lora": Row(
        [AdaptFormer(bottleneck=4), LoRA(rank=2, targets=("q", "mlp"))], ATTENTION, TWO, merges=False
    ),
    "vpt-shallow+apla": Row(
        [VPT(2, deep=False), APLA(columns=3)], TOKENS, "mae-2d|unetr-2d", starts_at_base=False, merges=False
    ),
}
FITTING = [(method, network) for network in NETWORKS for method, row in METHODS.items() if re.search(row.fits, network)]
# Three-dimensional Swin runs take long, SegResNetDS2 has the encoder of SegResNetDS: a few methods stand for the rest.
SLOW = {
    "swin-3d": ("lora-all", "adaptformer"),
    "swin-v2-3d": ("apla-columns", "ssf"),
    "segresnet-ds2-3d": ("lora-conv", "ssf"),
}
PAIRS = [
    (method, network)
    for method, network in FITTING
    if re.search(METHODS[method].shown_on, network) and method in SLOW.get(network, METHODS)
]
AUTOCAST = ("vit-3d", "unetr-2d", "swin-2d", "segresnet-ds-3d")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@functools.cache
def first(network: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Build a network once, with images and its output; tests adapt copies of it."""
    torch.manual_seed(0)
    make, shape = NETWORKS[network]
    net, images = make().eval(), torch.rand(shape)
    return net, images, output_of(net, images)


def build(network: str) -> tuple[nn.Module, torch.Tensor]:
    net, images, _ = first(network)
    return copy.deepcopy(net), images


def run(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)  # MaskedAutoEncoderViT draws its mask from the global generator
    output = network(images)
    return output[0] if isinstance(output, tuple) else output


def adapted(network: nn.Module, method: str) -> nn.Module:
    torch.manual_seed(3)  # prompts are drawn
    return adapt(network, METHODS[method].method)


def output_of(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return run(network, images)


def train(network: nn.Module, images: torch.Tensor, steps: int = 2) -> None:
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        run(network, images).square().mean().backward()
        optimizer.step()


def perturb(network: nn.Module) -> None:
    """Move the learned tensors: one step of training leaves LoRA's A where it was, for B starts at zero."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))


def learning(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def storages(module: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in module.state_dict().values() if tensor.numel()}


def values_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_method_starts_at_the_base_or_is_refused_in_one_line_before_anything_changes(network):
    plain, images, base = first(network)
    for method, row in METHODS.items():
        pair, net = f"{method} on {network}", copy.deepcopy(plain)
        if (method, network) in PAIRS:
            continue
        if (method, network) in FITTING:
            adapted(net, method)
            assert torch.equal(output_of(net, images), base) == row.starts_at_base, f"{pair}: its start"
            assert learning(net) <= adaptation_of(net).changing - dead_parameters(net), f"{pair}: what learns"
            continue
        modules = list(net.modules())
        with pytest.raises(ValueError, match=f"^[^\n]*{type(net).__name__}[^\n]*$"):
            pytest.fail(f"{pair}: not refused, {type(adapted(net, method))}")
        assert list(net.modules()) == modules, f"{pair}: refused, and a layer was replaced"
        assert learning(net) == learning(plain), f"{pair}: refused, and a tensor was frozen"


@pytest.mark.parametrize(
    ("method", "network"), [pytest.param(*pair, marks=() if pair in PAIRS else pytest.mark.full) for pair in FITTING]
)
def test_a_pair_keeps_the_contract(method, network, tmp_path):
    """Check one pair in the order of use; the function that an assertion stands in says what broke."""
    net, images = build(network)
    adapted(net, method)
    start = starts_at_its_base(net, method, network)
    twin = copy.deepcopy(net)
    perturb(twin)
    expected = a_copy_is_independent_and_disabling_is_exact(net, twin, network, start)
    a_file_carries_the_adaptation_and_swaps_back(net, twin, network, (start, expected), tmp_path)
    named_adapters_take_turns(copy.deepcopy(twin), network, (start, expected), tmp_path)
    if METHODS[method].merges:
        merged_network_is_plain_and_computes_the_same(method, network)
    else:
        what_cannot_merge_says_so_in_one_line_and_stays_as_it_is(twin, images, expected)
    again = a_plain_state_loads_before_and_after_adapt(net, method, network)
    if network in AUTOCAST:
        bf16_autocast_trains_in_fp32_tensors(again, images)
    training_changes_what_the_method_names_and_nothing_else(again, images)


def starts_at_its_base(net: nn.Module, method: str, network: str) -> torch.Tensor:
    _, images, base = first(network)
    start = output_of(net, images)
    assert torch.equal(start, base) == METHODS[method].starts_at_base
    return start


def a_copy_is_independent_and_disabling_is_exact(
    net: nn.Module, twin: nn.Module, network: str, start: torch.Tensor
) -> torch.Tensor:
    _, images, base = first(network)
    expected = output_of(twin, images)
    assert not torch.equal(expected, base), "what was learned has no effect"
    assert torch.equal(output_of(net, images), start), "a change of the copy reached the network that it is a copy of"
    with disable_adapter(twin):
        assert torch.equal(output_of(twin, images), base), "disabled, the network is not its base"
    assert torch.equal(output_of(twin, images), expected), "disabling left something behind"
    return expected


def a_file_carries_the_adaptation_and_swaps_back(
    net: nn.Module, twin: nn.Module, network: str, outputs: tuple[torch.Tensor, torch.Tensor], folder: Path
) -> None:
    (fresh, images), (start, expected) = build(network), outputs
    untrained, site_a = (
        save_adapter(net, folder / "untrained.safetensors"),
        save_adapter(twin, folder / "a.safetensors"),
    )
    loaded = load_adapter(fresh, site_a)
    assert torch.equal(output_of(loaded, images), expected), "a fresh base with the file computes something else"
    assert learning(loaded) == learning(twin), "a fresh base with the file trains something else"
    assert torch.equal(output_of(load_adapter(twin, untrained), images), start), "the untrained swapped in"
    assert torch.equal(output_of(load_adapter(twin, site_a), images), expected), "the trained swapped back"


def named_adapters_take_turns(
    net: nn.Module, network: str, outputs: tuple[torch.Tensor, torch.Tensor], folder: Path
) -> None:
    (plain, images, base), (start, expected) = first(network), outputs
    before = list(net.state_dict()), learning(net)
    add_adapter(net, "untrained", folder / "untrained.safetensors")
    assert (list(net.state_dict()), learning(net)) == before, "an adapter that waits shows"
    assert torch.equal(output_of(net, images), expected), "an adapter that waits computes"
    assert torch.equal(output_of(set_adapter(net, "untrained"), images), start)
    assert torch.equal(output_of(set_adapter(net, "default"), images), expected)
    remove_adapter(remove_adapter(net, "untrained"), "default")
    assert torch.equal(output_of(net, images), base), "the base is not what it was"
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in net.modules()] == [type(module) for module in plain.modules()]


def what_cannot_merge_says_so_in_one_line_and_stays_as_it_is(
    net: nn.Module, images: torch.Tensor, expected: torch.Tensor
) -> None:
    with pytest.raises(NotMergeable, match=r"^[^\n]*cannot be merged[^\n]*torch\.export[^\n]*$"):
        merge(net)
    assert torch.equal(output_of(net, images), expected)


def merged_network_is_plain_and_computes_the_same(method: str, network: str) -> None:
    net, images = (each.double() for each in build(network))
    for parameter in list(net.parameters())[::3]:
        parameter.requires_grad_(False)  # a user's own choice comes back, too
    plain = copy.deepcopy(net)
    perturb(adapted(net, method))
    before = values_of(net)
    merged = merge(net)
    torch.testing.assert_close(output_of(merged, images), output_of(net, images), rtol=1e-9, atol=1e-9)
    assert list(merged.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in merged.modules()] == [type(module) for module in plain.modules()]
    assert [p.requires_grad for p in merged.parameters()] == [p.requires_grad for p in plain.parameters()]
    plain.load_state_dict(merged.state_dict(), strict=True)
    assert torch.equal(output_of(plain, images), output_of(merged, images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not storages(merged) & storages(net), "storage is shared"
    for path, layer in net.named_modules():
        if isinstance(layer, AdapterLayer):
            assert not storages(layer.merged()) & storages(layer), f"a tensor of {path}, merged, is the adapted layer's"


def a_plain_state_loads_before_and_after_adapt(net: nn.Module, method: str, network: str) -> nn.Module:
    """Return the network that took the state before it was adapted, in train mode as trainings call ``adapt``."""
    base, images = build(network)
    state = {name: tensor + 0.01 for name, tensor in base.state_dict().items() if tensor.is_floating_point()}
    names = set(base.state_dict())
    base.load_state_dict(state, strict=False)
    expected = output_of(base, images)
    keys = net.load_state_dict(state, strict=False)
    assert set(keys.missing_keys) - (names - set(state)) == set(net.state_dict()) - names
    assert not keys.unexpected_keys
    with disable_adapter(net):
        assert torch.equal(output_of(net, images), expected), "the state loaded after adapt is not the base"
    again = adapted(base.train(), method)
    assert torch.equal(output_of(net, images), output_of(again.eval(), images)), "before and after adapt differ"
    return again.train()


def bf16_autocast_trains_in_fp32_tensors(net: nn.Module, images: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = run(net, images).float().square().mean()
    loss.backward()
    gradients = [p.grad for p in net.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients)


def training_changes_what_the_method_names_and_nothing_else(net: nn.Module, images: torch.Tensor) -> None:
    """Train in train mode, where a norm that is not frozen would move its statistics."""
    before, learned = values_of(net), learning(net)
    train(net, images)
    assert learned <= adaptation_of(net).changing
    assert not learned & dead_parameters(net)
    statistics = {name for name, _ in net.named_buffers() if f"{name.rpartition('.')[0]}.bias" in learned}
    for name, tensor in net.state_dict().items():
        assert name in learned | statistics or torch.equal(tensor, before[name]), name
    assert any(not torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("network", ["vit-3d", "unetr-3d", "unetr-2d", "swin-2d"])
def test_merged_network_traces_and_exports(network):
    net, images = build(network)
    perturb(adapt(net, [APLA(columns=2), LoRA(rank=2)]))
    merged = merge(net)
    expected = output_of(merged, images)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(merged, images, strict=False, check_trace=False)
        exported = torch.export.export(merged, (images,)).module()
    for copied in (traced, exported):
        torch.testing.assert_close(output_of(copied, images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_head_only_trains_what_also_train_names(network):
    net, images = build(network)
    names = [name for name, _ in net.named_parameters() if name not in dead_parameters(net)]
    adapt(net, HeadOnly(), also_train=[names[-1].replace(".", r"\.")])
    assert [name for name, p in net.named_parameters() if p.requires_grad] == [names[-1]]
    assert summary(net).trainable == net.get_parameter(names[-1]).numel()


def _steps_of_one_process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(1)
    try:
        _train_in_step(rank, folder)
    finally:
        torch.distributed.destroy_process_group()


def _train_in_step(rank: int, folder: str) -> None:
    for network, method in (
        ("vit-3d", "apla"),
        ("unetr-2d", "apla+lora"),
        ("swin-2d", "lora-all"),
        ("vit-2d-cls", "full"),
    ):
        net, images = build(network)
        adapt(
            net.train(),
            METHODS[method].method,
            also_train=["classification_head.*"] if "cls" in network and method != "full" else (),
        )
        # UNETR's frozen decoder has no gradients to reduce; every trainable tensor must take part in each step.
        wrapped = nn.parallel.DistributedDataParallel(net)
        images = images + rank
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            run(wrapped, images).square().mean().backward()
            optimizer.step()
        torch.save(net.state_dict(), f"{folder}/{network}-{rank}.pt")


def test_two_processes_train_in_step(tmp_path):
    run_ranks(_steps_of_one_process, str(tmp_path))
    for network in ("vit-3d", "unetr-2d", "swin-2d", "vit-2d-cls"):
        a, b = (torch.load(tmp_path / f"{network}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(a[name], b[name]) for name in a)
