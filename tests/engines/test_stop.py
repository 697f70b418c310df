# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A trainer that gets SIGTERM saves and goes on as it would have; one that runs out of memory says what is smaller."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn

from monai_essa.engines import RunCheckpoint, Supervised, TrainStep
from monai_essa.engines.stop import says_what_is_smaller, smaller_settings, stops_on_sigterm

# Equal, so that their order, which the sampler of a bundle keeps, does not matter.
BATCHES = [{"image": torch.ones(1, 1, 2, 2, 2), "label": torch.zeros(1, 1, 2, 2, 2)}] * 3


def trainer(folder: Path, epochs: int = 2) -> SupervisedTrainer:
    torch.manual_seed(0)
    objective = Supervised(nn.Conv3d(1, 1, 1), nn.MSELoss())
    optimizer = torch.optim.AdamW(objective.parameters())
    return SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=BATCHES,
        network=objective,
        loss_function=None,
        optimizer=optimizer,
        iteration_update=TrainStep(objective),
        train_handlers=[RunCheckpoint(folder, objective, {"optimizer": optimizer}, "toy")],
    )


def weights(engine: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in engine.network.parameters()]


def run(engine: SupervisedTrainer, events: list[int], stop_at: int | None = None) -> None:
    """Run, noting at which iteration each epoch ended and whether the run completed; ask it to end at an iteration."""
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: events.append(engine.state.iteration))
    engine.add_event_handler(Events.COMPLETED, lambda _: events.append(-1))
    if stop_at is not None:
        once = Events.ITERATION_STARTED(once=stop_at)
        engine.add_event_handler(once, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with stops_on_sigterm(engine):
        engine.run()


@pytest.mark.parametrize(("stop_at", "seen"), [(1, []), (2, []), (3, [3]), (5, [3])])
def test_a_stopped_run_goes_on_where_it_was(
    stop_at: int, seen: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, before = trainer(tmp_path / "whole"), signal.getsignal(signal.SIGTERM)
    run(whole, [])
    events: list[int] = []
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit) as stopped:
        run(trainer(tmp_path / "stopped"), events, stop_at)
    assert (stopped.value.code, events) == (143, seen)
    assert [record.getMessage() for record in caplog.records] == [
        f"stopped by SIGTERM after iteration {stop_at}: the same command goes on from there"
    ]
    assert signal.getsignal(signal.SIGTERM) is before
    again = trainer(tmp_path / "stopped")
    run(again, events)
    assert events == [3, 6, -1]
    assert all(map(torch.equal, weights(again), weights(whole)))


def test_a_run_in_its_last_iteration_ends_as_it_would(tmp_path: Path) -> None:
    events: list[int] = []
    run(trainer(tmp_path), events, stop_at=6)
    assert events == [3, 6, -1]


def test_a_second_signal_meets_the_handler_of_the_system(tmp_path: Path) -> None:
    found: list[Any] = []
    engine = trainer(tmp_path)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda _: found.append(signal.getsignal(signal.SIGTERM)))
    with pytest.raises(SystemExit):
        run(engine, [], stop_at=1)
    assert found == [signal.SIG_DFL]


def test_a_thread_trains_without_catching_signals(tmp_path: Path) -> None:
    events: list[int] = []
    thread = threading.Thread(target=run, args=(trainer(tmp_path), events))
    thread.start()
    thread.join()
    assert events == [3, 6, -1]


def real_allocation(*_: Any) -> None:
    torch.empty(2**60, dtype=torch.uint8)


def cuda_allocation(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nSee documentation")


def numpy_allocation(*_: Any) -> None:
    np.empty(2**60, dtype=np.uint8)


@pytest.mark.parametrize("step", [real_allocation, cuda_allocation, numpy_allocation])
def test_out_of_memory_is_one_line_with_three_settings(step: Any) -> None:
    engine = Engine(step)
    settings = {"lean": "fast", "batch_size": 4, "img_size": [96, 96, 96]}
    with pytest.raises(RuntimeError) as caught, says_what_is_smaller(engine, settings):
        engine.run([0])
    assert str(caught.value) == (
        "out of memory in iteration 1 on cpu: set lean: small, and go on; or in another output_dir batch_size: 2, "
        "img_size: [64, 64, 64]"
    )


def test_another_error_stays_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="^no memory of it$"), says_what_is_smaller(Engine(lambda *_: None), {}):
        raise RuntimeError("no memory of it")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"lean": "small", "batch_size": 3, "img_size": [28, 28]},
            "in another output_dir batch_size: 1, img_size: [24, 24]",
        ),
        ({"lean": "none", "batch_size": 1, "img_size": [16, 16]}, "set lean: small, and go on"),
        (
            {"lean": "small", "batch_size": 1, "img_size": [16, 16]},
            "in another output_dir a smaller network, by hidden_size or feature_size",
        ),
    ],
)
def test_what_is_as_small_as_it_can_be_is_not_named(settings: dict[str, Any], line: str) -> None:
    assert smaller_settings(settings) == line
