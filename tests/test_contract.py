# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What every method does on every network. A new method or network joins by one line in METHODS or NETWORKS."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SegResNet, SegResNetDS, SwinUNETR, UNet, ViT, ViTAutoEnc

from monai_essa.adapters.adaptation import adapt, disable_adapter, merge
from monai_essa.adapters.adapted import adaptation_of
from monai_essa.adapters.file import load_adapter, save_adapter
from monai_essa.adapters.summary import summary
from monai_essa.anatomy import classification_network
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
from monai_essa.methods.method import AdaptationMethod, NotMergeable

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
    "swin-2d": (lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2), (1, 1, 64, 32)),
    "swin-v2-2d": (lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2, use_v2=True), (1, 1, 64, 32)),
    "swin-3d": (
        lambda: SwinUNETR(1, 2, feature_size=12, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1)),
        (1, 1, 64, 32, 32),
    ),
    "swin-v2-3d": (
        lambda: SwinUNETR(1, 2, feature_size=12, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1), use_v2=True),
        (1, 1, 64, 32, 32),
    ),
    "segresnet-2d": (lambda: SegResNet(2, 8, blocks_down=(1, 1), blocks_up=(1,)), (1, 1, 16, 16)),
    "segresnet-3d": (lambda: SegResNet(3, 8, blocks_down=(1, 1), blocks_up=(1,)), (1, 1, 16, 16, 16)),
    "segresnet-ds-3d": (lambda: SegResNetDS(3, 8, blocks_down=(1, 1), dsdepth=1), (2, 1, 16, 16, 16)),
    "unet-3d": (lambda: UNet(3, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1), (1, 1, 16, 16, 16)),
    "unet-affine-2d": (
        lambda: UNet(2, 1, 2, channels=(4, 8, 8), strides=(2, 2), norm=("instance", {"affine": True})),
        (1, 1, 16, 16),
    ),
    "classifier-vit-2d": (
        lambda: classification_network(ViT(1, 16, 8, 24, 48, 2, 4, spatial_dims=2), 3),
        (1, 1, 16, 16),
    ),
    "classifier-segresnet-2d": (
        lambda: classification_network(SegResNet(2, 8, blocks_down=(1, 1), blocks_up=(1,)), 3),
        (1, 1, 16, 16),
    ),
}


@dataclass(frozen=True)
class Row:
    """A method, or several that compose, and what it can do; ``fits`` is searched in the names of the networks."""

    method: AdaptationMethod | Sequence[AdaptationMethod]
    fits: str = ""
    starts_at_base: bool = True
    merges: bool = True


ATTENTION = "vit|mae|unetr|swin"
TOKENS = "vit|mae|unetr"
NORMED = ATTENTION + "|segresnet|affine"  # a UNet's own norms have no parameters
LINEAR = r"(layers\d\.0\.)?blocks\.\d+\.(attn\.qkv|mlp\.linear1)"
METHODS = {
    "apla": Row(APLA(), ATTENTION),
    "apla-columns": Row(APLA(columns=3, seed=5), ATTENTION),
    "apla-fraction": Row(APLA(columns=0.25), ATTENTION),
    "apla-given": Row(APLA(columns={0: [1, 4], 1: [0]}), ATTENTION),
    "lora": Row(LoRA(rank=2, alpha=4), ATTENTION),
    "lora-all": Row(LoRA(rank=2, targets=("q", "k", "v", "o", "mlp")), ATTENTION),
    "adaptformer": Row(AdaptFormer(bottleneck=4), ATTENTION, merges=False),
    "vpt": Row(VPT(tokens=2), TOKENS, starts_at_base=False, merges=False),
    "vpt-shallow": Row(VPT(tokens=2, deep=False), TOKENS, starts_at_base=False, merges=False),
    "ssf": Row(SSF()),
    "bitfit": Row(BitFit(), NORMED + "|unet-3d"),
    "norms": Row(NormTuning(), NORMED),
    "component-v": Row(ComponentTuning("v"), ATTENTION),
    "component-mlp_out": Row(ComponentTuning("mlp_out"), ATTENTION),
    "component-patch_embedding": Row(ComponentTuning("patch_embedding"), ATTENTION),
    "lora-conv": Row(LoRA(rank=2, targets=("conv",))),
    "peft-dora": Row(PeftLibrary({"peft_type": "LORA", "r": 2, "use_dora": True, "target_modules": LINEAR}), ATTENTION),
    "peft-conv": Row(
        PeftLibrary({"peft_type": "LORA", "r": 2, "target_modules": r"down_layers.*conv\d\.conv|layers.*conv\d"}),
        "segresnet",
    ),
    "full": Row(FullTuning()),
    "lora+bitfit": Row([LoRA(rank=2, targets=("q", "mlp")), BitFit()], ATTENTION),
    "apla+lora": Row([APLA(columns=3), LoRA(rank=2)], ATTENTION),
    "adaptformer+lora": Row([AdaptFormer(bottleneck=4), LoRA(rank=2, targets=("q", "mlp"))], ATTENTION, merges=False),
    "vpt-shallow+apla": Row([VPT(2, deep=False), APLA(columns=3)], TOKENS, starts_at_base=False, merges=False),
}
FITTING = [(method, network) for network in NETWORKS for method, row in METHODS.items() if re.search(row.fits, network)]
REFUSED = [(method, network) for network in NETWORKS for method in METHODS if (method, network) not in FITTING]
# Three-dimensional Swin runs take long: a few methods stand for the rest.
PAIRS = [
    (method, network)
    for method, network in FITTING
    if not re.match("swin.*3d", network) or method in ("apla-columns", "lora-all", "adaptformer", "ssf")
]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def build(network: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = NETWORKS[network]
    return make().eval(), torch.rand(shape)


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


@pytest.mark.parametrize(("method", "network"), REFUSED)
def test_method_that_does_not_fit_is_refused_in_one_line_before_anything_changes(method, network):
    net, _ = build(network)
    modules, learning = list(net.modules()), [parameter.requires_grad for parameter in net.parameters()]
    with pytest.raises(ValueError, match=f"^[^\n]*{type(net).__name__}[^\n]*$"):
        adapted(net, method)
    assert list(net.modules()) == modules
    assert [parameter.requires_grad for parameter in net.parameters()] == learning


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_adapted_network_starts_at_its_base(method, network):
    net, images = build(network)
    expected = output_of(net, images)
    assert torch.equal(output_of(adapted(net, method), images), expected) == METHODS[method].starts_at_base


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_training_changes_what_the_method_names_and_nothing_else(method, network):
    net, images = build(network)
    adapted(net.train(), method)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    train(net, images)
    learned = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert learned <= adaptation_of(net).changing
    assert not learned & dead_parameters(net)
    statistics = {name for name, _ in net.named_buffers() if f"{name.rpartition('.')[0]}.bias" in learned}
    for name, tensor in net.state_dict().items():
        assert name in learned | statistics or torch.equal(tensor, before[name]), name
    assert any(not torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_plain_state_loads_before_and_after_adapt(method, network):
    net, images = build(network)
    state = {name: tensor + 0.01 for name, tensor in net.state_dict().items() if tensor.is_floating_point()}
    base = copy.deepcopy(net)
    base.load_state_dict(state, strict=False)
    expected = output_of(base, images)
    adapted(net, method)
    keys = net.load_state_dict(state, strict=False)
    added = set(net.state_dict()) - set(base.state_dict())
    assert set(keys.missing_keys) - {name for name in base.state_dict() if name not in state} == added
    assert not keys.unexpected_keys
    with disable_adapter(net):
        assert torch.equal(output_of(net, images), expected)
    assert torch.equal(output_of(net, images), output_of(adapted(base, method), images))


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_adapter_file_carries_the_adaptation_to_a_fresh_base(method, network, tmp_path):
    net, images = build(network)
    fresh = copy.deepcopy(net)
    perturb(adapted(net, method))
    loaded = load_adapter(fresh, save_adapter(net, tmp_path / "a.safetensors"))
    assert torch.equal(output_of(loaded, images), output_of(net, images))
    trainable = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_swap_and_disable_are_exact(method, network, tmp_path):
    net, images = build(network)
    base = output_of(net, images)
    adapted(net, method)
    start, untrained = output_of(net, images), save_adapter(net, tmp_path / "untrained.safetensors")
    perturb(net)
    site_a, expected = save_adapter(net, tmp_path / "a.safetensors"), output_of(net, images)
    assert not torch.equal(expected, base)
    with disable_adapter(net):
        assert torch.equal(output_of(net, images), base)
    assert torch.equal(output_of(net, images), expected)
    assert torch.equal(output_of(load_adapter(net, untrained), images), start)
    assert torch.equal(output_of(load_adapter(net, site_a), images), expected)


@pytest.mark.parametrize(("method", "network"), [pair for pair in PAIRS if not METHODS[pair[0]].merges])
def test_what_cannot_merge_says_so_in_one_line_and_stays_as_it_is(method, network):
    net, images = build(network)
    expected = output_of(adapted(net, method), images)
    with pytest.raises(NotMergeable, match=r"^[^\n]*cannot be merged[^\n]*torch\.export[^\n]*$"):
        merge(net)
    assert torch.equal(output_of(net, images), expected)


@pytest.mark.parametrize(("method", "network"), [pair for pair in PAIRS if METHODS[pair[0]].merges])
def test_merged_network_is_plain_and_computes_the_same(method, network):
    net, images = (each.double() for each in build(network))
    plain = copy.deepcopy(net)
    perturb(adapted(net, method))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    merged = merge(net)
    torch.testing.assert_close(output_of(merged, images), output_of(net, images), rtol=1e-9, atol=1e-9)
    assert list(merged.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in merged.modules()] == [type(module) for module in plain.modules()]
    assert [p.requires_grad for p in merged.parameters()] == [p.requires_grad for p in plain.parameters()]
    plain.load_state_dict(merged.state_dict(), strict=True)
    assert torch.equal(output_of(plain, images), output_of(merged, images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    train(merged.train(), images, steps=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items()), "storage is shared"


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_deepcopy_is_independent(method, network):
    net, images = build(network)
    base = output_of(net, images)
    adapted(net, method)
    twin, expected = copy.deepcopy(net), output_of(net, images)
    perturb(twin)
    assert torch.equal(output_of(net, images), expected)
    with disable_adapter(twin):
        assert torch.equal(output_of(twin, images), base)


@pytest.mark.parametrize(
    ("method", "network"), [pair for pair in PAIRS if pair[1] in ("vit-3d", "unetr-2d", "swin-2d", "segresnet-ds-3d")]
)
def test_bf16_autocast_trains_in_fp32_tensors(method, network):
    net, images = build(network)
    adapted(net, method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = run(net, images).float().square().mean()
    loss.backward()
    gradients = [p.grad for p in net.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients)


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
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_in_step(tmp_path):
    torch.multiprocessing.spawn(_steps_of_one_process, (str(tmp_path),), nprocs=2)
    for network in ("vit-3d", "unetr-2d", "swin-2d", "vit-2d-cls"):
        a, b = (torch.load(tmp_path / f"{network}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(a[name], b[name]) for name in a)
