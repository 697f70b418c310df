# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The first steps of a trainer are taken and timed, without its handlers and without a cache."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Lambda

from monai_essa.planning.dry_run import try_steps

LOADED: list[int] = []
STEPS: list[int] = []


class SlowStep:
    """Takes 50 ms at the first step and 20 ms at each other."""

    def __call__(self, engine: Any, batch: Any) -> dict[str, torch.Tensor]:
        STEPS.append(engine.state.iteration)
        time.sleep(0.05 if engine.state.iteration == 1 else 0.02)
        return {"loss": torch.tensor(float(engine.state.iteration))}


def load(number: int) -> int:
    time.sleep(0.01)
    LOADED.append(number)
    return number


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    LOADED.clear()
    STEPS.clear()
    parser: dict[str, Any] = {"max_epochs": 5, "cache_rate": 1.0, "number": 6, "written": str(tmp_path / "written")}
    parser["train"] = {
        "handlers": ["$open(@written, 'w')"],
        "dataset": {
            "_target_": "CacheDataset",
            "data": "$list(range(@number))",
            "transform": load,
            "cache_rate": "@cache_rate",
            "progress": False,
        },
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": "@max_epochs",
            "device": "$torch.device('cpu')",
            "train_data_loader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 2},
            "network": None,
            "optimizer": None,
            "loss_function": None,
            "iteration_update": SlowStep(),
            "train_handlers": "@train#handlers",
        },
    }
    return parser


def test_two_steps_are_taken_of_all(config: dict[str, Any]) -> None:
    trial = try_steps(ConfigParser(config))
    assert STEPS == [1, 2]
    assert trial.steps == 5 * 3
    assert trial.loss == 2.0


def test_the_second_step_and_the_second_batch_are_timed(config: dict[str, Any]) -> None:
    trial = try_steps(ConfigParser(config))
    assert 0.02 <= trial.step_seconds < 0.05
    assert 0.02 <= trial.batch_seconds < 0.05


def test_only_the_scans_of_these_batches_are_read(config: dict[str, Any]) -> None:
    try_steps(ConfigParser(config))
    assert LOADED == [0, 1, 2, 3]


def test_the_handlers_stay_away(config: dict[str, Any], tmp_path: Path) -> None:
    try_steps(ConfigParser(config))
    assert not (tmp_path / "written").exists()


def test_a_run_of_one_step_is_one_step(config: dict[str, Any]) -> None:
    trial = try_steps(ConfigParser(config | {"max_epochs": 1, "number": 2}))
    assert (STEPS, trial.steps) == ([1], 1)


def test_epochs_of_one_batch_go_on_into_the_next(config: dict[str, Any]) -> None:
    assert try_steps(ConfigParser(config | {"number": 2})).steps == 5
    assert STEPS == [1, 2]


def test_memory_is_measured_on_cuda_only(config: dict[str, Any]) -> None:
    trial = try_steps(ConfigParser(config))
    assert (trial.device.type, trial.memory_bytes) == ("cpu", None)


def test_more_steps_are_timed_by_their_median_without_the_first(config: dict[str, Any]) -> None:
    trial = try_steps(ConfigParser(config), most=5)
    assert STEPS == [1, 2, 3, 4, 5]
    assert 0.02 <= trial.step_seconds < 0.05


def test_a_cache_is_filled_on_request(config: dict[str, Any]) -> None:
    config["train"]["dataset"]["transform"] = Lambda(load)  # what is no transform of MONAI is never cached
    assert try_steps(ConfigParser(config), cached=True).batch_seconds < 0.02
    assert sorted(LOADED) == [0, 1, 2, 3, 4, 5]
