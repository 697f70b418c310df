# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Remember the best validation over a resume, so that a worse network does not replace the best one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.handlers import Checkpoint
from monai.engines import Workflow
from monai.handlers import CheckpointSaver

__all__ = ["BestMetric"]


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
