# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The best epoch: a choice that can be made, kept over a resume, and loaded at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn as nn
from ignite.engine import Engine
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointSaver
from monai.networks.nets import ViT

from monai_essa import adapt, disable_adapter
from monai_essa.engines.epochs import BestMetric, RestoreBest, check_foreground, check_validation_interval
from monai_essa.methods import APLA


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


def trained(epochs: int = 1) -> Engine:
    trainer = Engine(lambda engine, batch: None)
    trainer.run([0], max_epochs=epochs)
    return trainer


def test_best_weights_come_back_and_the_base_is_kept(tmp_path: Path) -> None:
    net = adapt(ViT(1, 32, 16, 24, 48, 1, 4, spatial_dims=2), APLA())
    weight = net.blocks[0].attn.out_proj.weight
    base = weight.detach().clone()
    weight.data.add_(1)
    torch.save(net.state_dict(), tmp_path / "best.pt")
    weight.data.add_(1)
    trainer = Engine(lambda engine, batch: None)
    RestoreBest(net, tmp_path / "best.pt", Run(tmp_path).evaluator).attach(trainer)
    trainer.run([0], max_epochs=1)
    assert torch.equal(weight, base + 1)
    with disable_adapter(net):
        assert torch.equal(weight, base)


def test_a_run_that_never_validated_does_so_at_its_end(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.score = 0.5
    nn.init.constant_(run.network.weight, 0.25)
    RestoreBest(run.network, tmp_path / "model.pt", run.evaluator)(trained(epochs=3))
    assert saved(tmp_path) == run.network.weight.item() == 0.25
    assert run.evaluator.state.best_metric_epoch == 3


@pytest.mark.parametrize("interval", [0, 5, True, 1.0, "1"])
def test_an_interval_without_a_validation_is_refused(interval: object) -> None:
    check_validation_interval(4, 4)
    with pytest.raises(ValueError, match=r"val_interval: expected a whole number from 1 to max_epochs \(4\), got"):
        check_validation_interval(interval, 4)  # type: ignore[arg-type]


def test_a_section_without_foreground_is_refused_and_one_case_is_enough() -> None:
    empty = {"label": torch.zeros(1, 4, 4)}
    with pytest.raises(ValueError, match="^section 'validation': no label holds foreground"):
        check_foreground([empty, empty], "validation")
    check_foreground([empty, {"label": torch.ones(1, 4, 4)}], "validation")
