# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from ignite.engine import Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler

from monai_essa.engines import BestMetric, Patience

CPU = torch.device("cpu")


class Scripted:
    """A trainer whose validations have the scores of a list, the i-th that of epoch i."""

    def __init__(self, scores: list[float], patience: int, val_interval: int = 1) -> None:
        self.completed: list[int] = []
        self.evaluator = SupervisedEvaluator(
            device=CPU,
            val_data_loader=[0],
            network=torch.nn.Identity(),
            iteration_update=lambda engine, batch: {"score": scores[engine.state.epoch - 1]},
            key_val_metric={"score": Average(lambda output: output["score"])},
        )
        self.best = BestMetric(self.evaluator)
        self.trainer = SupervisedTrainer(
            device=CPU,
            max_epochs=len(scores),
            train_data_loader=[0, 1],
            network=torch.nn.Identity(),
            optimizer=None,
            loss_function=None,
            iteration_update=lambda engine, batch: {"loss": 0.0},
            train_handlers=[
                Patience(self.evaluator, patience, val_interval),
                ValidationHandler(val_interval, self.evaluator),
            ],
        )
        self.trainer.add_event_handler(Events.COMPLETED, lambda engine: self.completed.append(engine.state.epoch))


def test_it_ends_after_so_many_validations_without_a_new_best(caplog: pytest.LogCaptureFixture) -> None:
    scripted = Scripted([0.1, 0.5, 0.4, 0.5, 0.3, 0.9], patience=3)
    with caplog.at_level(logging.INFO, "monai_essa"):
        scripted.trainer.run()
    assert scripted.completed == [5] and scripted.trainer.state.iteration == 10
    line = "stopped early after epoch 5 of 6: no better score in 3 validations since epoch 2 (0.5000)"
    assert line in caplog.messages


def test_a_new_best_begins_the_count_again(caplog: pytest.LogCaptureFixture) -> None:
    scripted = Scripted([0.5, 0.4, 0.6, 0.5, 0.7, 0.6], patience=2)
    with caplog.at_level(logging.INFO, "monai_essa"):
        scripted.trainer.run()
    assert scripted.completed == [6]
    assert not [line for line in caplog.messages if "stopped early" in line]


def test_it_counts_validations_and_not_epochs() -> None:
    scripted = Scripted([0.0, 0.5, 0.0, 0.4, 0.0, 0.3, 0.0, 0.2], patience=2, val_interval=2)
    scripted.trainer.run()
    assert scripted.completed == [6]


def test_an_undefined_score_is_no_improvement() -> None:
    scripted = Scripted([0.5, math.nan, math.nan, 0.9], patience=2)
    scripted.trainer.run()
    assert scripted.completed == [3]


@pytest.mark.parametrize("done", [1, 2, 3, 4, 5])
def test_a_resumed_run_ends_where_the_unbroken_one_does(done: int) -> None:
    scores = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9]
    first = Scripted(scores, patience=3)
    first.trainer.run()
    before = Scripted(scores[:done], patience=100)
    before.trainer.run()
    resumed = Scripted(scores, patience=3)

    @resumed.trainer.on(Events.STARTED)
    def resume(engine: Any) -> None:
        engine.state.epoch, engine.state.iteration = done, 2 * done

    resumed.best.load_state_dict(before.best.state_dict())
    # As RunCheckpoint, the resume comes before the handlers that were attached earlier.
    handlers = resumed.trainer._event_handlers[Events.STARTED]
    handlers.insert(0, handlers.pop())
    resumed.trainer.run()
    assert resumed.completed == first.completed == [5]


def test_without_a_validation_it_is_refused() -> None:
    evaluator = SupervisedEvaluator(device=CPU, val_data_loader=[], network=torch.nn.Identity())
    with pytest.raises(ValueError, match="patience 3 needs a validation, and this run has none: leave out patience"):
        Patience(evaluator, 3).attach(evaluator)


@pytest.mark.parametrize("validations", [0, 1.5, "3", True])
def test_a_patience_that_is_no_count_is_refused(validations: Any) -> None:
    evaluator = SupervisedEvaluator(device=CPU, val_data_loader=[0], network=torch.nn.Identity())
    with pytest.raises(ValueError, match="patience: expected a whole number from 1"):
        Patience(evaluator, validations)
