# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What every method does on every network. A new method or network joins by one line in METHODS or NETWORKS."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SwinUNETR, ViT, ViTAutoEnc

from monai_essa import adapt, disable_adapter, load_adapter, merge, save_adapter, summary
from monai_essa.adaptation import adaptation_of
from monai_essa.methods import APLA, FullTuning, HeadOnly, LoRA
from monai_essa.network_parts import dead_parameters

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
    "unetr-3d": (lambda: UNETR(1, 2, 32, 4, 24, 48, 4, qkv_bias=True), (1, 1, 32, 32, 32)),
    "swin-2d": (lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2), (1, 1, 64, 64)),
    "swin-v2-2d": (lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2, use_v2=True), (1, 1, 64, 64)),
    "swin-3d": (
        lambda: SwinUNETR(1, 2, feature_size=12, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1)),
        (1, 1, 64, 64, 64),
    ),
    "swin-v2-3d": (
        lambda: SwinUNETR(1, 2, feature_size=12, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1), use_v2=True),
        (1, 1, 64, 64, 64),
    ),
}
METHODS = {
    "apla": APLA(),
    "apla-columns": APLA(columns=3, seed=5),
    "apla-fraction": APLA(columns=0.25),
    "apla-given": APLA(columns={0: [1, 4], 1: [0]}),
    "lora": LoRA(rank=2, alpha=4),
    "lora-all": LoRA(rank=2, targets=("q", "k", "v", "o", "mlp")),
    "full": FullTuning(),
    "apla+lora": [APLA(columns=3), LoRA(rank=2)],
}
# Three-dimensional Swin runs cost a second each: two methods stand for the rest.
PAIRS = [
    (method, network)
    for network in NETWORKS
    for method in METHODS
    if "3d" not in network or "swin" not in network or method in ("apla-columns", "lora-all")
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


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_adapted_network_starts_at_its_base(method, network):
    net, images = build(network)
    expected = output_of(net, images)
    assert torch.equal(output_of(adapt(net, METHODS[method]), images), expected)


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_training_changes_what_the_method_names_and_nothing_else(method, network):
    net, images = build(network)
    adapt(net.train(), METHODS[method])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    train(net, images)
    learned = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert learned <= adaptation_of(net).changing
    assert not learned & dead_parameters(net)
    for name, tensor in net.state_dict().items():
        assert name in learned or torch.equal(tensor, before[name]), name
    assert any(not torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_plain_state_loads_before_and_after_adapt(method, network):
    net, images = build(network)
    state = {name: tensor + 0.01 for name, tensor in net.state_dict().items() if tensor.is_floating_point()}
    base = copy.deepcopy(net)
    base.load_state_dict(state, strict=False)
    expected = output_of(base, images)
    adapt(net, METHODS[method])
    keys = net.load_state_dict(state, strict=False)
    added = set(net.state_dict()) - set(base.state_dict())
    assert set(keys.missing_keys) - {name for name in base.state_dict() if name not in state} == added
    assert not keys.unexpected_keys
    assert torch.equal(output_of(net, images), expected)
    with disable_adapter(net):
        assert torch.equal(output_of(net, images), expected)


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_adapter_file_carries_the_adaptation_to_a_fresh_base(method, network, tmp_path):
    net, images = build(network)
    fresh = copy.deepcopy(net)
    perturb(adapt(net, METHODS[method]))
    loaded = load_adapter(fresh, save_adapter(net, tmp_path / "a.safetensors"))
    assert torch.equal(output_of(loaded, images), output_of(net, images))
    trainable = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_swap_and_disable_are_exact(method, network, tmp_path):
    net, images = build(network)
    base = output_of(net, images)
    adapt(net, METHODS[method])
    empty = save_adapter(net, tmp_path / "empty.safetensors")
    perturb(net)
    site_a, expected = save_adapter(net, tmp_path / "a.safetensors"), output_of(net, images)
    assert not torch.equal(expected, base)
    with disable_adapter(net):
        assert torch.equal(output_of(net, images), base)
    assert torch.equal(output_of(net, images), expected)
    assert torch.equal(output_of(load_adapter(net, empty), images), base)
    assert torch.equal(output_of(load_adapter(net, site_a), images), expected)


@pytest.mark.parametrize(("method", "network"), PAIRS)
def test_merged_network_is_plain_and_computes_the_same(method, network):
    net, images = build(network)
    plain = copy.deepcopy(net)
    perturb(adapt(net, METHODS[method]))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    merged = merge(net)
    torch.testing.assert_close(output_of(merged, images), output_of(net, images), rtol=1e-5, atol=1e-5)
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
    adapt(net, METHODS[method])
    twin, expected = copy.deepcopy(net), output_of(net, images)
    perturb(twin)
    assert torch.equal(output_of(net, images), expected)
    with disable_adapter(twin):
        assert torch.equal(output_of(twin, images), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", ["vit-3d", "unetr-2d", "swin-2d"])
def test_bf16_autocast_trains_in_fp32_tensors(method, network):
    net, images = build(network)
    adapt(net, METHODS[method])
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
            METHODS[method],
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
