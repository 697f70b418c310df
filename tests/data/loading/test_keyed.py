# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset
from monai.transforms import (
    Compose,
    OneOf,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
)

from monai_essa.data.loading.keyed import KeyedDataset, KeyedSampler, key

SEED = 7
LENGTH = 5


def test_key_is_the_documented_hash() -> None:
    digest = hashlib.blake2b(b"7/order/3", digest_size=4).digest()
    assert key(SEED, "order", 3) == int.from_bytes(digest, "big")


def test_key_takes_numpy_numbers_as_numbers() -> None:
    assert key(SEED, np.int64(3)) == key(SEED, 3)


def test_key_refuses_what_is_neither_number_nor_text() -> None:
    with pytest.raises(TypeError):
        key(SEED, 0.5)  # type: ignore[arg-type]


def epoch_of(sampler: KeyedSampler, epoch: int, skip: int = 0) -> list[tuple[int, int]]:
    sampler.set_epoch(epoch, skip=skip)
    return list(sampler)


def test_an_epoch_gives_each_index_once_with_its_epoch() -> None:
    assert sorted(epoch_of(KeyedSampler(LENGTH, SEED), 3)) == [(3, index) for index in range(LENGTH)]


def test_the_order_does_not_depend_on_earlier_epochs_or_on_the_global_generator() -> None:
    used = KeyedSampler(LENGTH, SEED)
    epoch_of(used, 1)
    torch.manual_seed(123)
    assert epoch_of(used, 2) == epoch_of(KeyedSampler(LENGTH, SEED), 2)


def test_the_order_changes_with_epoch_and_seed() -> None:
    indices = [index for _, index in epoch_of(KeyedSampler(20, SEED), 1)]
    assert indices != [index for _, index in epoch_of(KeyedSampler(20, SEED), 2)]
    assert indices != [index for _, index in epoch_of(KeyedSampler(20, SEED + 1), 1)]


def test_skipped_samples_are_the_first_of_the_epoch_and_the_length_stays() -> None:
    sampler = KeyedSampler(LENGTH, SEED)
    whole = epoch_of(sampler, 1)
    assert epoch_of(sampler, 1, skip=2) == whole[2:]
    assert len(sampler) == LENGTH


def test_windows_of_another_size_than_the_data_set_go_through_all_items_before_any_comes_again() -> None:
    sampler = KeyedSampler(LENGTH, SEED, samples_per_epoch=7)
    pairs = [pair for epoch in range(LENGTH) for pair in epoch_of(sampler, epoch)]
    whole = KeyedSampler(LENGTH, SEED)
    assert pairs == [pair for epoch in range(7) for pair in epoch_of(whole, epoch)]
    assert len(sampler) == 7


def test_neighbours_are_of_different_patients_and_each_scan_has_its_turn() -> None:
    patients = ["a", "a", "b", "c", "c", "c", "d", "e", "f", "g"]  # seven patients
    sampler = KeyedSampler(10, seed=1, samples_per_epoch=21, patients=patients)
    order = [pair for epoch in range(2) for pair in epoch_of(sampler, epoch)]
    names = [patients[index] for _, index in order]
    assert all(len(set(names[start : start + 3])) == 3 for start in range(len(names) - 2))
    assert [len({index for _, index in order if patients[index] == name}) for name in "abc"] == [2, 1, 3]
    assert len(set(order)) == len(order) == 42
    assert len(KeyedSampler(10, patients=patients)) == 7
    with pytest.raises(ValueError, match="expected one patient for each of 10 items, got 3"):
        KeyedSampler(10, patients=["a", "b", "c"])


@pytest.mark.parametrize("world_size", [2, 3])
def test_batches_of_all_processes_together_are_the_batches_of_one_process(world_size: int) -> None:
    length, batch = 12, 2
    alone = epoch_of(KeyedSampler(length, SEED), 1)
    ranks = [epoch_of(KeyedSampler(length, SEED, process=(rank, world_size)), 1) for rank in range(world_size)]
    for start in range(0, length // world_size, batch):
        together = set(itertools.chain.from_iterable(rank[start : start + batch] for rank in ranks))
        assert together == set(alone[start * world_size : (start + batch) * world_size])


def test_an_epoch_that_the_processes_do_not_divide_is_filled_from_its_beginning() -> None:
    alone = epoch_of(KeyedSampler(LENGTH, SEED), 1)
    ranks = [epoch_of(KeyedSampler(LENGTH, SEED, process=(rank, 4)), 1) for rank in range(4)]
    assert [len(rank) for rank in ranks] == [2, 2, 2, 2]
    assert [rank[0] for rank in ranks] + [rank[1] for rank in ranks] == alone + alone[:3]


@pytest.mark.parametrize(
    "arguments", [{"length": 0}, {"length": 3, "samples_per_epoch": 0}, {"length": 3, "process": (1, 1)}]
)
def test_impossible_sizes_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="check the data list"):
        KeyedSampler(**arguments)


def items() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 10, 10, 10, generator=generator) for _ in range(LENGTH)]
    return [{"image": image, "label": (image > 0.5).float()} for image in images]


def global_noise(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"noise": torch.rand(2) + np.random.rand() + random.random()}


def transform() -> Compose:
    keys = ["image", "label"]
    return Compose(
        [
            RandCropByPosNegLabeld(keys, "label", (6, 6, 6), num_samples=2),
            RandAffined(keys, prob=0.7, rotate_range=0.5, mode=("bilinear", "nearest")),
            OneOf([RandFlipd(keys, prob=0.5, spatial_axis=0), RandScaleIntensityd("image", 0.5, prob=1.0)]),
            RandGaussianNoised("image", prob=0.7),
            global_noise,
        ]
    )


DATASETS: dict[str, Callable[[Path], Any]] = {
    "plain": lambda _: Dataset(items(), transform()),
    "cached": lambda _: CacheDataset(items(), transform(), progress=False),
    "persistent": lambda folder: PersistentDataset(items(), transform(), cache_dir=folder),
}


def batches(dataset: Any, workers: int, skip: int = 0) -> list[dict[str, torch.Tensor]]:
    sampler = KeyedSampler(LENGTH, SEED)
    sampler.set_epoch(2, skip=skip)
    return list(DataLoader(KeyedDataset(dataset, SEED), batch_size=2, sampler=sampler, num_workers=workers))


def same(ones: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    return len(ones) == len(others) and all(
        torch.equal(one[name], other[name])
        for one, other in zip(ones, others, strict=True)
        for name in ("image", "label", "noise")
    )


@pytest.mark.parametrize("kind", DATASETS)
def test_items_are_the_same_with_and_without_workers_and_after_other_draws(kind: str, tmp_path: Path) -> None:
    first = batches(DATASETS[kind](tmp_path), workers=0)
    again = DATASETS[kind](tmp_path)
    batches(again, workers=0)
    torch.manual_seed(99)
    assert same(batches(again, workers=0), first)
    assert same(batches(again, workers=2), first)


def test_a_resumed_epoch_gives_the_batches_that_were_left() -> None:
    whole = batches(DATASETS["cached"](Path()), workers=0)
    assert same(batches(DATASETS["cached"](Path()), workers=2, skip=2), whole[1:])


def test_all_data_sets_of_monai_give_the_same_items(tmp_path: Path) -> None:
    plain, cached, persistent = (batches(build(tmp_path), workers=0) for build in DATASETS.values())
    assert same(plain, cached)
    assert same(plain, persistent)


def test_epoch_index_and_seed_each_change_the_item() -> None:
    noise = RandGaussianNoised("image", prob=1.0)
    dataset = Dataset([{"image": torch.zeros(1, 4, 4)}] * 2, noise)
    keyed = KeyedDataset(dataset, SEED)
    item = keyed[1, 0]["image"]
    for other in (keyed[2, 0], keyed[1, 1], KeyedDataset(dataset, SEED + 1)[1, 0]):
        assert not torch.equal(item, other["image"])


def test_global_random_states_are_left_alone() -> None:
    keyed = KeyedDataset(Dataset([{"image": torch.zeros(1)}], global_noise), SEED)
    draws = []
    for touch in (False, True):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        if touch:
            keyed[1, 0]
        draws.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert draws[0] == draws[1]


def test_global_random_states_are_put_back_after_an_error() -> None:
    def fail(item: Any) -> Any:
        raise OSError("no such file")

    state = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="applying transform"):
        KeyedDataset(Dataset([0], fail), SEED)[1, 0]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_index_alone_is_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"sampler=KeyedSampler\(len\(dataset\), seed\)"):
        KeyedDataset(Dataset([1, 2], None))[0]  # type: ignore[index]


def test_a_data_set_without_transform_is_refused() -> None:
    with pytest.raises(TypeError, match="TensorDataset"):
        KeyedDataset(torch.utils.data.TensorDataset(torch.zeros(2)))
