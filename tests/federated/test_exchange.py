# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What comes from a site is checked, shortened, weighed and averaged; what is out of range is left out and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import ViT

from monai_essa import adapt, save_adapter
from monai_essa.federated.exchange import (
    Start,
    averaged,
    check_update,
    check_weight,
    limited_update,
    read_start,
    sent_list,
    write_start,
)
from monai_essa.methods import LoRA


def _moved(values: dict[str, np.ndarray], seed: int, scale: float = 1e-3) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: (own + scale * draw.normal(size=own.shape)).astype(own.dtype) for name, own in values.items()}


def _damaged(values: dict[str, np.ndarray], how: str) -> Any:
    name = next(iter(values))
    other = dict(values)
    if how == "missing":
        del other[name]
    elif how == "unknown":
        other["adapter/encoder:blocks.99.attn.out_proj.weight"] = np.zeros(3, dtype=np.float32)
    elif how == "shape":
        other[name] = other[name].ravel()[:-1]
    elif how == "type":
        other[name] = other[name].astype(np.int64)
    elif how == "objects":
        other[name] = np.array([{}], dtype=object)
    elif how == "a list":
        other[name] = other[name].tolist()
    else:
        other[name] = np.full_like(other[name], float(how))
    return other


@pytest.mark.parametrize("how", ["missing", "unknown", "shape", "type", "objects", "a list", "nan", "inf", "-inf"])
def test_what_is_not_the_tensors_of_the_job_is_refused_in_a_line(start: Start, how: str) -> None:
    reference = start.values()
    check_update(_moved(reference, 1), reference)
    with pytest.raises(
        ValueError, match=r"^(expected the \d+ tensors|'adapter/.*': expected floats|'adapter/.*' holds)"
    ):
        check_update(_damaged(reference, how), reference)


@pytest.mark.parametrize("other", [None, [], "adapter", 3])
def test_what_is_no_mapping_is_refused(start: Start, other: Any) -> None:
    with pytest.raises(ValueError, match="expected the"):
        check_update(other, start.values())


@pytest.mark.parametrize("weight", [None, "3", float("nan"), float("inf"), -1.0, 0.0, 1e300, True, [1.0]])
def test_a_weight_that_is_none_is_refused(weight: Any) -> None:
    with pytest.raises(ValueError, match="weight"):
        check_weight(weight)


def test_the_average_is_that_of_the_weights(start: Start) -> None:
    reference = start.values()
    updates = {"a": (_moved(reference, 1), 3.0), "b": (_moved(reference, 2), 1.0)}
    average = averaged(updates, start, reference)
    assert average.shares == {"a": 0.75, "b": 0.25} and not average.left_out and not average.errors
    for name in reference:
        expected = 0.75 * updates["a"][0][name].astype(np.float64) + 0.25 * updates["b"][0][name]
        np.testing.assert_allclose(average.values[name], expected, atol=1e-6, rtol=0)


def test_an_adapter_that_pulls_the_average_is_left_out_and_named(start: Start) -> None:
    reference = start.values()
    updates = {site: (_moved(reference, number), 1.0) for number, site in enumerate(("a", "b"))}
    honest = averaged(updates, start, reference)
    planted = averaged({**updates, "bad": (_moved(reference, 7, scale=1.0), 1e9)}, start, reference)
    assert set(planted.shares) == {"a", "b"} and "bad is" in planted.left_out["bad"]
    assert all(np.array_equal(planted.values[name], honest.values[name]) for name in reference)


def test_a_site_that_learned_nothing_keeps_its_share(start: Start) -> None:
    reference = start.values()
    average = averaged({"still": (reference, 1.0), "a": (_moved(reference, 1), 1.0)}, start, reference)
    assert set(average.shares) == {"still", "a"}


def test_an_update_is_shortened_and_noise_is_of_the_length_that_was_asked_for(start: Start) -> None:
    reference = start.values()
    values = _moved(reference, 1)

    def length(other: dict[str, np.ndarray]) -> float:
        return float(np.sqrt(sum(np.square(other[name] - reference[name]).sum() for name in reference)))

    short = limited_update(values, reference, 0.5, 0.0, np.random.default_rng(0))
    assert length(short) == pytest.approx(0.5, rel=1e-4)
    assert length(limited_update(values, reference, 1e6, 0.0, np.random.default_rng(0))) == pytest.approx(
        length(values)
    )
    noisy = limited_update(reference, reference, 0.5, 0.01, np.random.default_rng(0))
    count = sum(own.size for own in reference.values())
    assert length(noisy) == pytest.approx(0.005 * np.sqrt(count), rel=0.01)


def test_products_of_lora_are_averaged_and_cut_back_with_their_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), LoRA(rank=2))
    save_adapter(network, tmp_path / "adapter.safetensors")
    start = read_start(tmp_path)
    reference = start.values()
    updates = {site: (_moved(reference, number, 0.1), 1.0) for number, site in enumerate(("a", "b"))}
    average = averaged(updates, start, reference)
    assert average.errors and 0 < max(average.errors.values()) < 1
    assert {name: value.shape for name, value in average.values.items()} == {n: v.shape for n, v in reference.items()}


def test_a_frozen_a_of_lora_stays_at_home_and_the_average_is_exact(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
    save_adapter(adapt(net, LoRA(rank=2, freeze_a=True)), tmp_path / "adapter.safetensors")
    start = read_start(tmp_path)
    reference = start.values()
    assert len(reference) == 4 and all(".lora_B." in name for name in reference)  # q and v of two blocks
    updates = {site: (_moved(reference, number, 0.1), 1.0 + number) for number, site in enumerate(("a", "b"))}
    average = averaged(updates, start, reference)
    assert not any(average.errors.values())
    for name, value in average.values.items():
        np.testing.assert_allclose(value, (updates["a"][0][name] + 2 * updates["b"][0][name]) / 3, atol=1e-7)
    later, before = start.with_values(average.values).adapter.tensors, start.adapter.tensors
    assert all(torch.equal(later[name], own) == (".lora_A." in name) for name, own in before.items())


def test_what_travels_is_written_and_read_back_and_listed(start: Start, tmp_path: Path) -> None:
    values = _moved(start.values(), 1)
    write_start(start.with_values(values), tmp_path)
    again = read_start(tmp_path).values()
    assert all(np.array_equal(again[name], values[name]) for name in values)
    rows = sent_list(values, 2.0)
    assert sum(row["bytes"] for row in rows) == sum(value.nbytes for value in values.values()) + 8
    assert {row["name"] for row in rows} == {*values, "weight"}
