# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A small but whole training: random crops, two workers, dropout, accumulation, a schedule, validation, best model.

``python toy_training.py FOLDER PRECISION ITERATION`` trains in FOLDER, or goes on there, and kills itself with SIGKILL
when that iteration is done.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointSaver, LrScheduleHandler, MeanDice, ValidationHandler, from_engine
from monai.losses import DiceCELoss
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import AsDiscreted, Compose, RandFlipd, RandGaussianNoised, RandSpatialCropd

from monai_essa.data.loading.keyed import KeyedDataset, KeyedSampler
from monai_essa.engines import BestMetric, LossLog, RunCheckpoint, SamplerEpoch, Supervised, TrainStep, parameter_groups

SEED = 5
EPOCHS = 4
CPU = torch.device("cpu")


class Training:
    """What one start of the command builds."""

    def __init__(self, folder: Path, precision: str, fingerprint: str = "toy") -> None:
        torch.manual_seed(SEED)
        self.objective = _AllHead(_network(), DiceCELoss(softmax=True, to_onehot_y=True))
        optimizer = torch.optim.AdamW(parameter_groups(self.objective, lr=1.0e-2, head_lr_factor=2.0))
        schedule = WarmupCosineSchedule(optimizer, warmup_steps=3, t_total=5 * EPOCHS)
        step = TrainStep(self.objective, precision, clip_norm=1.0, accumulation=2, seed=SEED)
        # The worst Dice counts as the best: it comes in the first epoch, so a run that forgets it ends differently.
        saver = CheckpointSaver(
            str(folder),
            {"model": self.objective.network},
            save_key_metric=True,
            key_metric_filename="model.pt",
            key_metric_negative_sign=True,
        )
        self.best_file = folder / "model.pt"
        self.validator = _validator(self.objective.network, saver)
        self.log = LossLog(folder / "losses.jsonl", self.validator)
        stateful = {
            "optimizer": optimizer,
            "schedule": schedule,
            "step": step,
            "best": BestMetric(self.validator, saver),
            "log": self.log,
        }
        self.trainer = SupervisedTrainer(
            device=CPU,
            max_epochs=EPOCHS,
            train_data_loader=_loader(),
            network=self.objective,
            optimizer=optimizer,
            loss_function=None,
            iteration_update=step,
            train_handlers=[
                RunCheckpoint(folder / "resume", self.objective, stateful, fingerprint, every=2),
                SamplerEpoch(),
                LrScheduleHandler(schedule, print_lr=False, epoch_level=False),
                ValidationHandler(1, self.validator),
                self.log,
            ],
        )
        self.seen: dict[int, float] = {}
        self.trainer.add_event_handler(Events.ITERATION_STARTED, self._see)

    def _see(self, engine: Any) -> None:
        self.seen[engine.state.iteration] = float(engine.state.batch["image"].double().sum())

    def at(self, iteration: int, action: Callable[[], None]) -> None:
        """Do something when an iteration is done, a checkpoint of it included."""

        @self.trainer.on(Events.STARTED)
        def later() -> None:
            self.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), action)

    def result(self) -> dict[str, Any]:
        """All that must not depend on a kill."""
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
            "history": json.dumps(self.log.rows()),
            "best_network": torch.load(self.best_file, weights_only=True),
            "best": (self.validator.state.best_metric, self.validator.state.best_metric_epoch),
        }


class _AllHead(Supervised):
    """The toy network is of no class whose head is known: all of it learns at the rate of a head."""

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())


def _network() -> nn.Sequential:
    frozen = nn.Conv3d(1, 4, 3, padding=1).requires_grad_(False)
    return nn.Sequential(
        frozen,
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv3d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(4, 2, 1),
    )


def _items() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(SEED)
    images = [torch.rand(1, 12, 12, 12, generator=generator) for _ in range(5)]
    return [{"image": image, "label": (image > 0.6).float()} for image in images]


def _loader() -> DataLoader:
    keys = ["image", "label"]
    transform = Compose(
        [RandSpatialCropd(keys, (8, 8, 8)), RandFlipd(keys, prob=0.5), RandGaussianNoised("image", prob=0.5, std=0.05)]
    )
    dataset = CacheDataset(_items(), transform, progress=False)
    return DataLoader(KeyedDataset(dataset, SEED), sampler=KeyedSampler(5, SEED), num_workers=2)


def _validator(network: nn.Module, saver: CheckpointSaver) -> SupervisedEvaluator:
    return SupervisedEvaluator(
        device=CPU,
        val_data_loader=DataLoader(_items()[:2]),
        network=network,
        postprocessing=Compose([AsDiscreted("pred", argmax=True, to_onehot=2), AsDiscreted("label", to_onehot=2)]),
        key_val_metric={"val_mean_dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
        metric_cmp_fn=lambda current, best: current < best,
        val_handlers=[saver],
    )


def _main() -> None:
    folder, precision = Path(sys.argv[1]), sys.argv[2]
    training = Training(folder, precision)
    training.at(int(sys.argv[3]), lambda: os.kill(os.getpid(), signal.SIGKILL))
    training.trainer.run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _main()
