# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import logging
import sys
import time
from typing import Any

import pytest
import torch
from monai.engines import SupervisedTrainer

from monai_essa.engines.progress import TrainingProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(steps: int, epochs: int = 1, rank: int = 0, output: Any = None) -> None:
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=[0.25] * steps,
        network=None,
        optimizer=None,
        loss_function=None,
        iteration_update=output or (lambda _, batch: {"loss": torch.tensor(batch)}),
    )
    trainer.state.rank = rank
    TrainingProgress("trainable 0.6 %").attach(trainer)
    trainer.run()


def test_the_introduction_comes_first_and_the_estimate_after_five_measured_steps(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([100.0, 100.0 + 5 * 3.6])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    with caplog.at_level(logging.INFO, logger="monai_essa"):
        run(steps=50, epochs=21)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("monai_essa")]
    assert messages == ["trainable 0.6 %", "3.60 s a step: about 1 h for the 1044 steps left, without validation"]


def test_a_run_of_few_steps_has_no_estimate(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="monai_essa"):
        run(steps=5)
        run(steps=6)
    assert " h for the" not in caplog.text


@pytest.mark.parametrize("output", [None, lambda *_: [{"loss": 0.25}, {"loss": 0.25}]])
def test_a_terminal_shows_loss_and_speed(output: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(steps=3, output=output)
    assert "loss=0.25" in terminal.getvalue()
    assert "it/s" in terminal.getvalue() or "s/it" in terminal.getvalue() or "?it" in terminal.getvalue()


def test_a_log_file_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    run(steps=3)
    assert "loss=" not in capsys.readouterr().err


def test_other_processes_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="monai_essa"):
        run(steps=10, rank=1)
    assert not [record for record in caplog.records if record.name.startswith("monai_essa")]


@pytest.mark.gpu
def test_a_gpu_shows_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.zeros(1, device="cuda")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(steps=3)
    assert "GB=" in terminal.getvalue()
