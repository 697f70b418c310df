# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler

from monai_essa.engines import RunCheckpoint, Supervised, TrainStep, UseAverage
from monai_essa.engines.checkpoint import read_resume_file
from monai_essa.engines.supervised.average import WeightAverage

CPU = torch.device("cpu")
BATCHES = [{"image": torch.full((1, 1), float(value)), "label": torch.ones(1, 1)} for value in (1, 2, 3, 4)]


def objective(ema: float | None = 0.5) -> Supervised:
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, 1.0)
    nn.init.constant_(network.bias, 0.0)
    return Supervised(network, nn.MSELoss(), ema)


def trained(objective: Supervised, folder: Path, **values: Any) -> tuple[SupervisedTrainer, list[float]]:
    """Two epochs of four steps, each validated; and the weights that were validated."""
    seen: list[float] = []

    def look(engine: Any, batch: Any) -> dict[str, float]:
        seen.append(objective.network.weight.item())
        return {"value": 0.0}

    evaluator = SupervisedEvaluator(
        device=CPU,
        val_data_loader=[0],
        network=objective.network,
        iteration_update=look,
        key_val_metric={"value": Average(lambda output: output["value"])},
    )
    optimizer = torch.optim.SGD(objective.parameters(), 0.01)
    handlers: list[Any] = [
        RunCheckpoint(folder, objective, {"optimizer": optimizer}, "toy"),
        ValidationHandler(1, evaluator),
    ]
    if objective.average is not None:
        handlers.append(UseAverage(objective, evaluator))
    trainer = SupervisedTrainer(
        device=CPU,
        max_epochs=2,
        train_data_loader=BATCHES,
        network=objective,
        optimizer=optimizer,
        loss_function=None,
        iteration_update=TrainStep(objective, **values),
        train_handlers=handlers,
    )
    trainer.run()
    return trainer, seen


def test_the_average_is_that_of_the_formula() -> None:
    network = nn.Linear(1, 1, bias=False)
    average, expected = WeightAverage(network, momentum=0.2), network.weight.item()
    for step, value in enumerate([3.0, -1.0, 5.0, 2.0]):
        nn.init.constant_(network.weight, value)
        average.follow(network)
        momentum = min(0.2, (1 + step) / (10 + step))  # 1 / 10, 2 / 11, then 0.2
        expected = momentum * expected + (1 - momentum) * value
    assert average.tensors.tensors()["weight"].item() == pytest.approx(expected)


def test_only_what_learns_is_averaged() -> None:
    network = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    assert set(WeightAverage(network, 0.9).tensors.tensors()) == {"1.weight", "1.bias"}


def test_a_second_exchange_undoes_the_first_to_the_last_bit() -> None:
    network = nn.Linear(3, 3)
    average = WeightAverage(network, 0.9)
    nn.init.normal_(network.weight)
    average.follow(network)
    before = {name: tensor.clone() for name, tensor in (network.state_dict() | average.state_dict()).items()}
    average.exchange(network)
    assert not torch.equal(network.weight, before["weight"])
    average.exchange(network)
    after = network.state_dict() | average.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 8), (4, 2)])
def test_the_average_is_validated_and_handed_over_and_the_checkpoint_has_both(
    accumulation: int, steps: int, tmp_path: Path
) -> None:
    averaged, plain = objective(), objective(None)
    _, validated = trained(averaged, tmp_path / "ema", accumulation=accumulation)
    _, seen = trained(plain, tmp_path / "plain", accumulation=accumulation)
    content = read_resume_file(tmp_path / "ema")
    assert content is not None
    kept = content["objective"]
    assert averaged.average is not None and averaged.average.steps.item() == steps
    assert kept["network.weight"].item() == plain.network.weight.item() == seen[-1]  # training is not changed by it
    assert kept["average.tensors.weight"].item() == averaged.network.weight.item() == validated[-1]
    assert validated[-1] != seen[-1]


def test_without_it_an_objective_has_the_tensors_that_it_had() -> None:
    assert list(objective(None).state_dict()) == list(objective(0).state_dict()) == ["network.weight", "network.bias"]


@pytest.mark.parametrize("momentum", [1.0, -0.1, "0.9"])
def test_a_momentum_out_of_range_is_refused(momentum: Any) -> None:
    with pytest.raises(ValueError, match="ema: expected a number from 0 to 0.999999, got"):
        objective(momentum)
