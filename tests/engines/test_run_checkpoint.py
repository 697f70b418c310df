# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
import runpy
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.networks.nets import ViT

from monai_essa import adapt, disable_adapter
from monai_essa.engines import checkpoint as run_checkpoint
from monai_essa.engines.checkpoint import RunCheckpoint
from monai_essa.engines.objectives import Supervised
from monai_essa.engines.steps import TrainStep
from monai_essa.methods import APLA
from monai_essa.pretext import SimMIM
from tests.forked import run_python

SCRIPT = Path(__file__).with_name("toy_training.py")
Training = runpy.run_path(str(SCRIPT))["Training"]
ITERATIONS = 20


class Killed(Exception):
    """Ends a start as a kill would: nothing after it runs."""


def kill() -> None:
    raise Killed


def train(folder: Path, precision: str, kills: list[int]) -> tuple[dict[str, Any], dict[int, float]]:
    """Start again and again, until a start is not killed; give the result, and what each iteration saw last."""
    seen: dict[int, float] = {}
    for iteration in kills:
        training = Training(folder, precision)
        training.at(iteration, kill)
        with pytest.raises(Killed):
            training.trainer.run()
        seen |= training.seen
    training = Training(folder, precision)
    training.trainer.run()
    return training.result(), seen | training.seen


def assert_same(one: Any, other: Any, where: str = "result") -> None:
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for name, value in one.items():
            assert_same(value, other[name], f"{where}.{name}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}.{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], dict[int, float]]]:
    return {precision: train(tmp_path_factory.mktemp(precision), precision, []) for precision in ("fp32", "bf16")}


@pytest.mark.parametrize(("draw", "precision"), [(0, "fp32"), (1, "bf16")])
def test_a_run_killed_three_times_ends_bit_identical(
    draw: int, precision: str, unbroken: dict[str, Any], tmp_path: Path
) -> None:
    kills = sorted(random.Random(draw).sample(range(1, ITERATIONS), 3))
    result, seen = train(tmp_path, precision, kills)
    expected, expected_seen = unbroken[precision]
    assert_same(result, expected)
    assert dict(sorted(seen.items())) == expected_seen


def test_the_unbroken_run_learns_and_validates(unbroken: dict[str, Any]) -> None:
    result, seen = unbroken["fp32"]
    assert sorted(seen) == list(range(1, ITERATIONS + 1))
    assert len(set(seen.values())) == ITERATIONS
    assert result["history"].count("val_mean_dice") == 4
    assert result["best"][1] == 1


def test_a_kill_at_each_iteration_of_an_epoch_ends_bit_identical(unbroken: dict[str, Any], tmp_path: Path) -> None:
    result, _ = train(tmp_path, "fp32", [6, 7, 8, 9, 10, 11])
    assert_same(result, unbroken["fp32"][0])


def test_what_a_process_that_the_system_killed_left_ends_bit_identical(
    unbroken: dict[str, Any], tmp_path: Path
) -> None:
    """The other kills of this file are exceptions; this one lets the process do nothing more at all."""
    iteration = random.Random(7).randrange(1, ITERATIONS)
    killed = run_python(str(SCRIPT), str(tmp_path), "fp32", str(iteration))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result, seen = train(tmp_path, "fp32", [])
    assert min(seen) > 1  # it went on, and did not begin again
    assert_same(result, unbroken["fp32"][0])


def test_a_damaged_checkpoint_falls_back_and_still_ends_bit_identical(
    unbroken: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(tmp_path, "fp32")
    training.at(13, kill)
    with pytest.raises(Killed):
        training.trainer.run()
    newest = max((tmp_path / "resume").glob("resume_*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    result, _ = train(tmp_path, "fp32", [])
    assert f"{newest.name} is damaged" in caplog.text
    assert_same(result, unbroken["fp32"][0])


def test_a_run_whose_training_was_done_only_completes(unbroken: dict[str, Any], tmp_path: Path) -> None:
    train(tmp_path, "fp32", [])
    again = Training(tmp_path, "fp32")
    completed: list[int] = []
    again.trainer.add_event_handler(Events.COMPLETED, lambda engine: completed.append(engine.state.iteration))
    again.trainer.run()
    assert (again.seen, completed) == ({}, [ITERATIONS])
    assert_same(again.result()["objective"], unbroken["fp32"][0]["objective"])


def test_another_configuration_is_refused_in_one_line(tmp_path: Path) -> None:
    train(tmp_path, "fp32", [])
    before = sorted((tmp_path / "resume").iterdir())
    with pytest.raises(ValueError, match=r"another configuration \(fingerprint toy there, other here\)") as caught:
        Training(tmp_path, "fp32", fingerprint="other").trainer.run()
    assert "\n" not in str(caught.value)
    assert sorted((tmp_path / "resume").iterdir()) == before


def test_a_checkpoint_of_older_objectives_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(run_checkpoint, "_VERSION", 1)
        small(tmp_path, Supervised(nn.Conv2d(1, 2, 1), nn.MSELoss())).run()
    with pytest.raises(ValueError, match=r"^[^\n]*another configuration \(version 1 there, 2 here\): give another"):
        small(tmp_path, Supervised(nn.Conv2d(1, 2, 1), nn.MSELoss()), epochs=2).run()


def test_a_pretext_head_of_other_sizes_is_refused_in_one_line(tmp_path: Path) -> None:
    def simmim(width: int) -> SimMIM:
        return SimMIM(ViT(1, 16, 8, width, 24, 1, 4, spatial_dims=2), mask_unit=8)

    batch = {"image": torch.rand(2, 1, 16, 16)}
    small(tmp_path, simmim(12), batch=batch).run()
    with pytest.raises(ValueError, match=r"^[^\n]*another configuration \(other trainable tensors\): give another"):
        small(tmp_path, simmim(24), batch=batch, epochs=2).run()


def small(
    folder: Path,
    objective: nn.Module,
    every: int | None = None,
    accumulation: int = 1,
    batches: int = 6,
    epochs: int = 1,
    batch: dict[str, torch.Tensor] | None = None,
) -> SupervisedTrainer:
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], 0.1)
    batch = batch or {"image": torch.rand(2, 1, 4, 4), "label": torch.rand(2, 2, 4, 4)}
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=[batch] * batches,
        network=objective,
        optimizer=optimizer,
        loss_function=None,
        iteration_update=TrainStep(objective, accumulation=accumulation),
        train_handlers=[RunCheckpoint(folder, objective, {"optimizer": optimizer}, "small", every=every)],
    )


def conv() -> Supervised:
    return Supervised(nn.Sequential(nn.Conv2d(1, 2, 1).requires_grad_(False), nn.BatchNorm2d(2)), nn.MSELoss())


def saves(engine: SupervisedTrainer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    iterations: list[int] = []
    write = "monai_essa.engines.checkpoint.write_resume_file"
    monkeypatch.setattr(write, lambda folder, iteration, content: iterations.append(iteration))
    engine.run()
    return iterations


@pytest.mark.parametrize(
    ("every", "accumulation", "expected"),
    [(None, 1, [6, 12]), (2, 1, [2, 4, 6, 8, 10, 12]), (4, 1, [4, 6, 8, 12]), (2, 3, [3, 6, 9, 12]), (1, 6, [6, 12])],
)
def test_checkpoints_wait_for_the_optimizer_step_and_for_the_end_of_the_epoch(
    every: int | None, accumulation: int, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = small(tmp_path, conv(), every, accumulation, epochs=2)
    assert saves(engine, monkeypatch) == expected


def test_the_save_at_the_end_of_an_epoch_comes_after_handlers_that_were_attached_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = small(tmp_path, conv())
    order: list[str] = []
    write = "monai_essa.engines.checkpoint.write_resume_file"
    monkeypatch.setattr(write, lambda *_: order.append("checkpoint"))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: order.append("validation"))
    engine.run()
    assert order == ["validation", "checkpoint"]


def test_trainable_parameters_and_buffers_are_saved_and_frozen_parameters_are_not(tmp_path: Path) -> None:
    small(tmp_path, conv()).run()
    (file,) = tmp_path.iterdir()
    names = set(torch.load(file, weights_only=True)["objective"])
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert names == {f"network.1.{name}" for name in norm}


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    engine = small(tmp_path, conv())
    engine.state.rank = 1
    engine.run()
    assert list(tmp_path.iterdir()) == []


def test_other_shapes_batches_and_states_are_refused_by_name(tmp_path: Path) -> None:
    small(tmp_path, conv(), batches=6).run()
    wider = Supervised(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), nn.MSELoss())
    with pytest.raises(ValueError, match="epoch_length 6 there, 5 here"):
        small(tmp_path, conv(), batches=5).run()
    with pytest.raises(ValueError, match="other trainable tensors"):
        small(tmp_path, wider).run()
    other = RunCheckpoint(tmp_path, wider.requires_grad_(False), {}, "small")
    with pytest.raises(ValueError, match=r"state of \['optimizer'\] there, \[\] here"):
        other._start(small(tmp_path, conv()))


def test_the_base_of_an_adapted_network_is_the_pretrained_one_after_a_resume(tmp_path: Path) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            network = ViT(1, 8, 4, hidden_size=12, mlp_dim=12, num_layers=1, num_heads=2, spatial_dims=2)
            self.encoder = adapt(network, APLA())

        def forward(self, images: torch.Tensor, *_: Any, generator: torch.Generator | None = None) -> dict[str, Any]:
            return {"loss": self.encoder(images)[0].square().mean()}

    def trainer(objective: nn.Module, epochs: int) -> SupervisedTrainer:
        engine = small(tmp_path, objective, epochs=epochs)
        engine.data_loader = [{"image": torch.ones(1, 1, 8, 8)}] * 6
        return engine

    images = torch.rand(1, 1, 8, 8)
    fresh, first, resumed = Tokens().eval(), Tokens(), Tokens()
    base = fresh.encoder(images)[0]
    trainer(first, epochs=1).run()
    trainer(resumed, epochs=1).run()
    assert torch.equal(first.eval().encoder(images)[0], resumed.eval().encoder(images)[0])
    assert not torch.equal(resumed.encoder(images)[0], base)
    with disable_adapter(resumed.encoder):
        assert torch.equal(resumed.encoder(images)[0], base)
