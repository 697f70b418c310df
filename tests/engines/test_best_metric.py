# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn as nn
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointSaver

from monai_essa.engines.best_metric import BestMetric


class Run:
    """An evaluator that scores what it is told, and MONAI's saver of the best network."""

    def __init__(self, folder: Path, filename: str | None = "model.pt") -> None:
        self.network = nn.Linear(1, 1, bias=False)
        self.saver = CheckpointSaver(
            str(folder), {"model": self.network}, save_key_metric=True, key_metric_filename=filename
        )
        self.score = 0.0
        self.evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=[0],
            network=self.network,
            iteration_update=lambda *_: {"dice": self.score},
            key_val_metric={"val_dice": Average(lambda output: output["dice"])},
            val_handlers=[self.saver],
        )
        self.best = BestMetric(self.evaluator, self.saver)

    def validate(self, epoch: int, score: float) -> None:
        self.score = score
        nn.init.constant_(self.network.weight, score)
        self.evaluator.run(epoch)


def saved(folder: Path) -> float:
    return torch.load(folder / "model.pt", weights_only=True)["weight"].item()


def test_without_it_a_worse_network_replaces_the_best_after_a_resume(tmp_path: Path) -> None:
    Run(tmp_path).validate(1, 0.75)
    Run(tmp_path).validate(2, 0.5)
    assert saved(tmp_path) == 0.5


@pytest.mark.parametrize(("score", "kept"), [(0.5, 0.75), (0.875, 0.875)])
def test_only_a_better_network_replaces_the_best(score: float, kept: float, tmp_path: Path) -> None:
    before, resumed = Run(tmp_path), Run(tmp_path)
    before.validate(1, 0.75)
    resumed.best.load_state_dict(before.best.state_dict())
    resumed.validate(2, score)
    assert saved(tmp_path) == kept
    assert resumed.evaluator.state.best_metric == kept


def test_names_with_the_score_are_kept_apart(tmp_path: Path) -> None:
    before, resumed = Run(tmp_path, filename=None), Run(tmp_path, filename=None)
    before.validate(1, 0.75)
    resumed.best.load_state_dict(before.best.state_dict())
    resumed.validate(2, 0.875)
    assert [file.name for file in tmp_path.iterdir()] == ["model_key_metric=0.8750.pt"]


def test_a_best_file_that_a_kill_deleted_is_written_again(tmp_path: Path) -> None:
    before, resumed = Run(tmp_path), Run(tmp_path)
    before.validate(1, 0.75)
    (tmp_path / "model.pt").unlink()
    resumed.best.load_state_dict(before.best.state_dict())
    resumed.validate(2, 0.875)
    assert saved(tmp_path) == 0.875


def test_without_a_saver_the_metric_alone_is_kept() -> None:
    run = Run(Path("unused"))
    run.evaluator.state.best_metric, run.evaluator.state.best_metric_epoch = torch.tensor(0.5), 4
    assert BestMetric(run.evaluator).state_dict() == {"best_metric": 0.5, "best_metric_epoch": 4, "saved": []}
