# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A teacher in the trainer moves once for each optimizer step, and a resumed run ends as the unbroken one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.networks.nets import ViT
from monai.transforms import RandGaussianNoised

from monai_essa.adapters.adaptation import adapt
from monai_essa.anatomy import keep_grid
from monai_essa.data import KeyedDataset, KeyedSampler
from monai_essa.engines import (
    FrozenCheck,
    PretextHead,
    RunCheckpoint,
    SamplerEpoch,
    TrainStep,
    parameter_groups,
    start_pretext_head,
)
from monai_essa.methods import LoRA
from monai_essa.pretext import DINOHead, DINOv2, DistillationSchedule

HEAD = DINOHead(prototypes=16, hidden_size=24, bottleneck=8)
ITEMS = 20  # five batches in an epoch


class Killed(BaseException):
    """Ends a run at once."""


def objective() -> DINOv2:
    torch.manual_seed(0)
    net = ViT(1, 16, 4, 24, 32, 2, 2, spatial_dims=2)
    keep_grid(net, (4, 4))
    return DINOv2(adapt(net, LoRA(rank=2)), DistillationSchedule(steps=9, steps_per_epoch=3), HEAD)


def loader() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    shapes = {"image": (2, 1, 16, 16), "local": (3, 1, 8, 8)}
    items = [{name: torch.rand(shape, generator=generator) for name, shape in shapes.items()} for _ in range(ITEMS)]
    dataset = KeyedDataset(CacheDataset(items, RandGaussianNoised("image", prob=1.0), progress=False), seed=3)
    return DataLoader(dataset, batch_size=4, sampler=KeyedSampler(ITEMS, seed=3))


def trainer(learner: DINOv2, folder: Path | None = None, accumulation: int = 2, epochs: int = 3) -> SupervisedTrainer:
    optimizer = torch.optim.AdamW(parameter_groups(learner, lr=1e-2))
    step = TrainStep(learner, accumulation=accumulation, seed=3)
    stateful = {"optimizer": optimizer, "step": step}
    handlers: list[Any] = [SamplerEpoch(), FrozenCheck(learner)]
    if folder is not None:
        handlers.insert(0, RunCheckpoint(folder, learner, stateful, "tiny", every=2))
    return SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=loader(),
        prepare_batch=lambda batch, *_, **__: (batch["image"], batch["local"], [1, 2, 3, 4]),
        network=learner,
        optimizer=optimizer,
        loss_function=None,
        iteration_update=step,
        train_handlers=handlers,
        decollate=False,
    )


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 5), (2, 3), (5, 1)])
def test_the_teacher_moves_once_for_each_optimizer_step(accumulation: int, steps: int):
    learner = objective()
    trainer(learner, accumulation=accumulation, epochs=1).run()
    assert int(learner.step) == steps and learner.image_targets.centre.any()


def test_a_run_killed_twice_ends_as_the_unbroken_one(tmp_path: Path):
    unbroken = objective()
    trainer(unbroken, tmp_path / "unbroken").run()
    for iteration in (4, 9):
        run = trainer(objective(), tmp_path / "killed")

        @run.on(Events.ITERATION_STARTED)
        def kill(engine: Engine, last: int = iteration) -> None:
            if engine.state.iteration == last:
                raise Killed

        with pytest.raises(Killed):
            run.run()
    resumed = objective()
    trainer(resumed, tmp_path / "killed").run()
    state = unbroken.state_dict()
    assert int(state["step"]) == 9
    assert [name for name, value in resumed.state_dict().items() if not torch.equal(value, state[name])] == []


def test_a_loaded_head_starts_a_new_run_with_a_teacher_of_its_own(tmp_path: Path):
    first = objective()
    trainer(first, epochs=1).run()
    PretextHead(first, tmp_path / "head.safetensors")(Engine(lambda engine, batch: None))

    second = start_pretext_head(objective(), tmp_path / "head.safetensors", freeze=True)
    assert int(second.step) == 0 and torch.equal(second.image_targets.centre, first.image_targets.centre)
    assert torch.equal(second.head.prototypes, first.head.prototypes)
    assert all(name.startswith("encoder.") for name in second.teacher.tensors())
