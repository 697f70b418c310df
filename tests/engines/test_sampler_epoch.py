# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer

from monai_essa.data.loading.keyed import KeyedDataset, KeyedSampler
from monai_essa.engines.epochs import SamplerEpoch

LENGTH = 6


def trainer(seen: list[list[int]], epoch_length: int | None = None, workers: int = 0) -> SupervisedTrainer:
    dataset = KeyedDataset(Dataset(list(range(LENGTH)), transform=None))
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=DataLoader(dataset, batch_size=2, sampler=KeyedSampler(LENGTH), num_workers=workers),
        epoch_length=epoch_length,
        network=None,
        optimizer=None,
        loss_function=None,
        iteration_update=lambda _, batch: seen.append(batch.tolist()),
        train_handlers=[SamplerEpoch()],
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_of_the_trainer_is_that_epoch_of_the_sampler(workers: int) -> None:
    seen: list[list[int]] = []
    trainer(seen, workers=workers).run()
    sampler, expected = KeyedSampler(LENGTH), []
    for epoch in (1, 2, 3):
        sampler.set_epoch(epoch)
        expected += [index for _, index in sampler]
    assert sum(seen, []) == expected


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 3, 4, 8])
def test_a_run_that_begins_in_the_middle_sees_the_batches_that_were_left(done: int, workers: int) -> None:
    whole: list[list[int]] = []
    trainer(whole).run()
    rest: list[list[int]] = []
    engine = trainer(rest, workers=workers)
    engine.state.iteration, engine.state.epoch = done, done // 3
    engine.run()
    assert rest == whole[done:]


def test_an_epoch_length_of_its_own_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="KeyedSampler samples_per_epoch=10"):
        trainer([], epoch_length=5).run()


def test_another_sampler_is_refused() -> None:
    engine: Any = trainer([])
    engine.data_loader = DataLoader(Dataset([1, 2], transform=None))
    with pytest.raises(TypeError, match="got SequentialSampler"):
        SamplerEpoch().attach(engine)
