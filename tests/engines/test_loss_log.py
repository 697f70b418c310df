# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import ValidationHandler

from monai_essa.engines.progress import LossLog

LOSSES = [1.0, 2.0, 6.0]


def evaluator() -> SupervisedEvaluator:
    engine = SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=[0], network=None, iteration_update=lambda *_: {}
    )
    engine.state.metrics = {"val_mean_dice": torch.tensor(0.5), "per_class": torch.tensor([0.4, 0.6])}
    return engine


def trainer(log: LossLog, epochs: int, handlers: tuple[Any, ...] = (), decollate: bool = True) -> SupervisedTrainer:
    parameter = nn.Parameter(torch.zeros(1))
    groups = [{"params": [parameter], "lr": 0.1}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5}]

    def step(engine: Any, batch: float) -> dict[str, Any]:
        engine.state.output = {"loss": torch.tensor(batch), "masked": 2 * batch, "image": torch.zeros(2, 1, 4)}
        engine.state.output["label"] = torch.tensor([1, 0])  # classes
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=LOSSES,
        network=None,
        optimizer=torch.optim.SGD(groups),
        loss_function=None,
        iteration_update=step,
        train_handlers=[*handlers, log],
        decollate=decollate,
    )


@pytest.mark.parametrize("decollate", [True, False])
def test_a_row_holds_means_of_all_scalars_and_the_rate(decollate: bool, tmp_path: Path) -> None:
    log = LossLog(tmp_path / "losses.jsonl")
    trainer(log, epochs=1, decollate=decollate).run()
    assert log.rows() == [{"epoch": 1, "iteration": 3, "lr": 0.5, "loss": 3.0, "masked": 6.0}]


def test_validation_metrics_stand_in_the_rows_of_epochs_with_a_validation(tmp_path: Path) -> None:
    validator = evaluator()
    log = LossLog(tmp_path / "losses.jsonl", validator)
    trainer(log, epochs=4, handlers=(ValidationHandler(2, validator),)).run()
    assert [row.get("validation") for row in log.rows()] == [None, {"val_mean_dice": 0.5}, None, {"val_mean_dice": 0.5}]


def test_an_undefined_metric_is_null(tmp_path: Path) -> None:
    validator = evaluator()
    log = LossLog(tmp_path / "losses.jsonl", validator)
    engine = trainer(log, epochs=1)
    validator.state.metrics, validator.state.epoch = {"dice": float("nan"), "auc": 0.5}, 1
    engine.run()
    assert log.rows()[0]["validation"] == {"dice": None, "auc": 0.5}
    assert "NaN" not in log.path.read_text(encoding="utf-8")


def test_an_epoch_that_is_run_again_replaces_its_row(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "losses.jsonl")
    trainer(log, epochs=3).run()
    resumed = LossLog(tmp_path / "losses.jsonl")
    engine = trainer(resumed, epochs=4)
    engine.state.iteration, engine.state.epoch = 3, 1
    engine.run()
    assert [row["epoch"] for row in resumed.rows()] == [1, 2, 3, 4]
    assert [row["iteration"] for row in resumed.rows()] == [3, 6, 9, 12]


def test_the_mean_of_an_epoch_goes_on_after_a_resume_within_it(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "losses.jsonl")
    log._add(engine_with(loss=1.0))
    log._add(engine_with(loss=2.0))
    resumed = LossLog(tmp_path / "losses.jsonl")
    resumed.load_state_dict(log.state_dict())
    resumed._add(engine_with(loss=6.0))
    resumed._write(engine_with(loss=0.0))
    assert resumed.rows()[0]["loss"] == 3.0


def engine_with(loss: float) -> Any:
    engine = trainer(LossLog("unused"), epochs=1)
    engine.state.output = {"loss": loss}
    return engine


def test_no_rows_before_the_first_epoch(tmp_path: Path) -> None:
    assert LossLog(tmp_path / "losses.jsonl").rows() == []


def test_a_number_survives_to_the_last_digit(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "losses.jsonl")
    log._add(engine_with(loss=math.pi))
    log._write(engine_with(loss=0.0))
    assert log.rows()[0]["loss"] == math.pi
