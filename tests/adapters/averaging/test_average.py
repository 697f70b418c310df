# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The average of adapter files is the adapter of the averaged weights, or it is refused with the file's name."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import SegResNet, ViT

from monai_essa import adapt, load_adapter, merge, save_adapter
from monai_essa.adapters.averaging.average import average_adapters
from monai_essa.adapters.file import AdapterFile, read_adapter
from monai_essa.methods import APLA, SSF, AdaptFormer, BitFit, LoRA, NormTuning
from monai_essa.methods.method import AdaptationMethod

WEIGHTS = [3.0, 1.0]
METHODS = {
    "apla": APLA(),
    "apla, columns": APLA(columns=5),
    "bitfit": BitFit(),
    "norms": NormTuning(),
    "ssf": SSF(),
    "lora": LoRA(rank=2, targets=("q", "v", "o")),
    "apla and norms": [APLA(columns=5), NormTuning()],
}


def vit() -> nn.Module:
    torch.manual_seed(0)
    return ViT(1, 16, 8, hidden_size=24, mlp_dim=48, num_layers=2, num_heads=2, spatial_dims=2, qkv_bias=True)


def site(
    folder: Path, name: str, method: AdaptationMethod | list[AdaptationMethod], seed: int, net: nn.Module | None = None
) -> tuple[AdapterFile, nn.Module]:
    """An adapter whose learned tensors were moved at random, and its merged network."""
    adapted = adapt(vit() if net is None else net, method)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return read_adapter(save_adapter(adapted, folder / f"{name}.safetensors")), merge(adapted)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[AdapterFile, nn.Module]]:
    return lambda name, method, seed, net=None: site(tmp_path, name, method, seed, net)


def weights_average(one: nn.Module, other: nn.Module) -> dict[str, torch.Tensor]:
    state = other.state_dict()
    shares = [weight / sum(WEIGHTS) for weight in WEIGHTS]
    return {name: shares[0] * tensor + shares[1] * state[name] for name, tensor in one.state_dict().items()}


@pytest.mark.parametrize("name", METHODS)
def test_the_average_merges_to_the_averaged_weights(name: str, make, tmp_path: Path) -> None:
    (one, plain), (other, second) = (make(str(seed), METHODS[name], seed) for seed in (1, 2))
    made = average_adapters([one, other], WEIGHTS)
    assert made.shares == (0.75, 0.25) and made.errors == {}
    path = made.save(tmp_path / "both.safetensors")
    merged = merge(load_adapter(vit(), path)).state_dict()
    for tensor, expected in weights_average(plain, second).items():
        assert torch.allclose(merged[tensor], expected, rtol=0, atol=2e-7), tensor


def test_lora_has_the_rank_of_all_files_together(make) -> None:
    files = [make(str(seed), METHODS["lora"], seed)[0] for seed in range(3)]
    (entry,) = average_adapters(files).record["methods"]
    assert (entry["values"]["rank"], entry["values"]["alpha"]) == (6, 48)


def test_lora_with_one_a_keeps_its_rank(make) -> None:
    (one, _), (other, _) = (make(str(seed), METHODS["lora"], seed) for seed in (1, 2))
    same = {name: one.tensors[name] if "lora_A" in name else tensor for name, tensor in other.tensors.items()}
    made = average_adapters([one, dataclasses.replace(other, tensors=same)], WEIGHTS)
    assert made.record["methods"] == one.record["methods"]
    name = next(name for name in one.tensors if "lora_B" in name)
    assert torch.allclose(made.tensors[name], 0.75 * one.tensors[name] + 0.25 * other.tensors[name], atol=1e-7)


def test_a_truncated_average_reports_the_error_that_it_makes(make, tmp_path: Path) -> None:
    (one, plain), (other, second) = (make(str(seed), METHODS["lora"], seed) for seed in (1, 2))
    made = average_adapters([one, other], WEIGHTS, rank=2)
    merged = merge(load_adapter(vit(), made.save(tmp_path / "short.safetensors"))).state_dict()
    base, exact = vit().state_dict(), weights_average(plain, second)
    assert len(made.errors) == 6  # q, v and o of two blocks
    name = "blocks.0.attn.out_proj.weight"
    distance = (merged[name] - exact[name]).norm() / (exact[name] - base[name]).norm()
    assert 0.05 < made.errors["encoder:blocks.0.attn.out_proj.all"] < 1
    assert float(distance) == pytest.approx(made.errors["encoder:blocks.0.attn.out_proj.all"], abs=1e-4)
    assert made.record["methods"][0]["values"]["rank"] == 2


def test_updates_of_convolutions_are_averaged_too(make, tmp_path: Path) -> None:
    def cnn() -> nn.Module:
        torch.manual_seed(0)
        return SegResNet(2, 8, out_channels=2, blocks_down=(1, 1), blocks_up=(1,))

    (one, plain), (other, second) = (make(str(seed), LoRA(rank=2, targets=("conv",)), seed, cnn()) for seed in (1, 2))
    made = average_adapters([one, other], WEIGHTS)
    merged = merge(load_adapter(cnn(), made.save(tmp_path / "both.safetensors"))).state_dict()
    for tensor, expected in weights_average(plain, second).items():
        assert torch.allclose(merged[tensor], expected, rtol=0, atol=1e-6), tensor


def changed(file: AdapterFile, change: Callable[[torch.Tensor], torch.Tensor]) -> AdapterFile:
    name = max(name for name, tensor in file.tensors.items() if tensor.is_floating_point())
    return dataclasses.replace(file, tensors=file.tensors | {name: change(file.tensors[name])})


def test_what_does_not_fit_is_refused_and_named(make) -> None:
    one, two = make("one", APLA(columns=5), 1)[0], make("two", APLA(columns=5), 2)[0]
    other_base = vit()
    other_base.state_dict()["blocks.0.mlp.linear1.weight"].add_(1)
    record = copy.deepcopy(two.record)
    record["preprocessing"] = {"spacing": [2.0, 2.0]}
    cases = {
        r"two.*holds NaN|norm nan": changed(two, lambda tensor: tensor * float("nan")),
        r"two.*norm .* out of range": changed(two, lambda tensor: tensor * 1e6),
        r"two.*is \(2, .*expected": changed(two, lambda tensor: tensor[:2]),
        r"two.*another preprocessing than .*one": dataclasses.replace(two, record=record),
        r"columns.*another methods than": make("columns", APLA(columns=6), 3)[0],
        r"seed.*another methods than": make("seed", APLA(columns=5, seed=1), 3)[0],
        r"base.*another base than": make("base", APLA(columns=5), 3, other_base)[0],
        r"lora.*another base than|another methods": make("lora", LoRA(rank=2), 3)[0],
    }
    for message, file in cases.items():
        with pytest.raises(ValueError, match=message):
            average_adapters([one, file])
    moved = {name: tensor.flip(0) if not tensor.is_floating_point() else tensor for name, tensor in two.tensors.items()}
    with pytest.raises(ValueError, match="two.*other columns"):
        average_adapters([one, dataclasses.replace(two, tensors=moved)])


@pytest.mark.parametrize(
    ("weights", "rank", "message"),
    [
        ([1.0], None, "a weight for each of 2 files, got 1"),
        ([1.0, 0.0], None, "weights above 0"),
        ([1.0, float("nan")], None, "weights"),
        (None, 4, "rank is that of LoRA"),
    ],
)
def test_values_out_of_range_are_refused(weights, rank, message: str, make) -> None:
    files = [make(str(seed), APLA(), seed)[0] for seed in (1, 2)]
    with pytest.raises(ValueError, match=message):
        average_adapters(files, weights, rank)
    with pytest.raises(ValueError, match="two adapter files or more"):
        average_adapters(files[:1])


def test_a_rank_above_the_exact_one_and_a_nonlinear_method_are_refused(make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from 1 to 4"):
        average_adapters([make(str(seed), METHODS["lora"], seed)[0] for seed in (1, 2)], rank=5)
    file = read_adapter(save_adapter(adapt(vit(), AdaptFormer(bottleneck=4)), tmp_path / "bottleneck.safetensors"))
    with pytest.raises(ValueError, match="AdaptFormer acts on features"):
        average_adapters([file, file])
