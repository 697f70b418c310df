# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Choose the best epoch of a run by its validation: check that a choice can be made, remember it, end with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from monai.engines import Evaluator, Workflow
from monai.handlers import CheckpointSaver
from monai.utils.enums import CommonKeys as Keys

__all__ = ["BestMetric", "RestoreBest", "check_foreground", "check_validation_interval"]


def check_validation_interval(val_interval: int, max_epochs: int) -> None:
    """Refuse a run in which no validation would choose the best epoch.

    Args:
        val_interval: epochs from one validation to the next.
        max_epochs: epochs of the run.

    Raises:
        ValueError: if ``val_interval`` is not a whole number from 1 to ``max_epochs``.
    """
    whole = isinstance(val_interval, int) and not isinstance(val_interval, bool)
    if not whole or not 1 <= val_interval <= max_epochs:
        raise ValueError(
            f"val_interval: expected a whole number from 1 to max_epochs ({max_epochs}), got {val_interval!r}; "
            "without a validation no epoch can be chosen"
        )


def check_foreground(dataset: Iterable[Mapping[str, Any]], section: str) -> None:
    """Refuse a validation set in which no voxel is foreground: its Dice is undefined, so it chooses no epoch.

    Reads labels until one has foreground, which is the first one as a rule.

    Args:
        dataset: preprocessed items with a ``label`` of class numbers; 0 is background.
        section: of the data list, for the message.

    Raises:
        ValueError: if no label has a voxel above 0.

    Example:
        >>> check_foreground([{"label": torch.zeros(1, 4, 4)}, {"label": torch.ones(1, 4, 4)}], "validation")
    """
    if not any(bool((item[Keys.LABEL] > 0).any()) for item in dataset):
        raise ValueError(
            f"section '{section}': no label holds foreground, so Dice is undefined and no epoch can be chosen; "
            "put at least one case with foreground there, or name another section by validation_section"
        )


class BestMetric:
    """The state that MONAI keeps in memory only: the best metric, and which file ``CheckpointSaver`` wrote for it.

    Args:
        evaluator: the engine whose ``best_metric`` is compared.
        saver: the handler that writes the best checkpoint of that engine, with ``save_key_metric=True``.

    Example:
        >>> from monai.engines import SupervisedEvaluator
        >>> evaluator = SupervisedEvaluator(device="cpu", val_data_loader=[], network=None)
        >>> BestMetric(evaluator).load_state_dict({"best_metric": 0.8, "best_metric_epoch": 3, "saved": []})
        >>> evaluator.state.best_metric, evaluator.state.best_metric_epoch
        (0.8, 3)
    """

    def __init__(self, evaluator: Workflow, saver: CheckpointSaver | None = None) -> None:
        self.evaluator = evaluator
        self.saver = saver

    def state_dict(self) -> dict[str, Any]:
        """Give the best metric, its epoch, and (score, file name) of the best checkpoints."""
        state = self.evaluator.state
        saved = [] if self.saver is None else self._checkpoint().state_dict()["_saved"]
        return {
            "best_metric": float(state.best_metric),
            "best_metric_epoch": int(state.best_metric_epoch),
            "saved": [(float(score), str(name)) for score, name in saved],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; a best checkpoint that is gone from the disk is forgotten."""
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        if self.saver is not None:
            # MONAI deletes the old best file before it writes the new one; a kill in between leaves none.
            there = [item for item in state["saved"] if self._file(item[1]).exists()]
            self._checkpoint().load_state_dict({"_saved": there})

    def _checkpoint(self) -> Checkpoint:
        return self.saver._key_metric_checkpoint  # type: ignore[union-attr, return-value]

    def _file(self, name: str) -> Path:
        handler: Any = self._checkpoint().save_handler
        return Path(handler.dirname) / (handler.filename or name)


class RestoreBest:
    """Handler that loads the best checkpoint into the network when the trainer completes.

    Attach it before the handlers that write results. A run that was stopped before its first validation, and goes on
    with another ``val_interval`` than the one it began with, validates its last epoch here.

    Args:
        network: the network that the checkpoint holds the state of.
        path: what MONAI's ``CheckpointSaver`` wrote with ``save_key_metric=True``.
        evaluator: the engine of that saver.
    """

    def __init__(self, network: nn.Module, path: str | Path, evaluator: Evaluator) -> None:
        self.network = network
        self.path = Path(path)
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        """Restore at the trainer's end."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the checkpoint."""
        if not self.path.is_file():
            self.evaluator.run(engine.state.epoch)
        self.network.load_state_dict(torch.load(self.path, weights_only=True))
