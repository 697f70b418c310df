# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a training shows: the patch, the loss log, metrics for a tracking server, progress and an estimate of hours."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines import Workflow
from monai.handlers import MLFlowHandler
from monai.utils import is_scalar
from monai.utils.enums import CommonKeys as Keys

from monai_essa.data.readers.volume import ras_size
from monai_essa.data.readers.volume_file import read_volume
from monai_essa.devices import peak_bytes
from monai_essa.files import write_text_whole

__all__ = ["LossLog", "LossWeight", "TrackedMetrics", "TrainingProgress", "patch_introduction"]

logger = logging.getLogger(__name__)
_STEPS_TO_MEASURE = 5
_MOST_SCANS = 20  # each is read whole, so a part of a large datalist must do
_BAR = "{desc} [{n_fmt}/{total_fmt}] {percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}, {rate_fmt}]"


class LossLog:
    """Handler of the trainer that writes the mean losses, the learning rate and the validation metrics of each epoch.

    A line of the file is a JSON object: ``epoch``, ``iteration``, ``lr`` (largest of the parameter groups), ``loss``
    and the other scalars of the output as means over the epoch, and ``validation`` with the scalar metrics if the
    evaluator has run in this epoch. List it after ``ValidationHandler``; among the ``stateful`` of
    :class:`~monai_essa.engines.checkpoint.RunCheckpoint` it goes on within an epoch. An epoch that is run again
    after a kill replaces its row.

    Args:
        path: the file, for example ``losses.jsonl`` in the run folder.
        validator: the evaluator whose metrics are written; default: none.

    Example:
        >>> import tempfile
        >>> from monai.engines import SupervisedTrainer
        >>> log = LossLog(Path(tempfile.mkdtemp()) / "losses.jsonl")
        >>> trainer = SupervisedTrainer(
        ...     device="cpu", max_epochs=2, train_data_loader=[1.0, 3.0], network=None, optimizer=None,
        ...     loss_function=None, train_handlers=[log], iteration_update=lambda engine, batch: {"loss": batch},
        ... )
        >>> trainer.run()
        >>> [(row["epoch"], row["loss"]) for row in log.rows()]
        [(1, 2.0), (2, 2.0)]
    """

    def __init__(self, path: str | Path, validator: Workflow | None = None) -> None:
        self.path = Path(path)
        self.validator = validator
        self._sums: dict[str, float] = {}
        self._count = 0

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def rows(self) -> list[dict[str, Any]]:
        """Read the rows written so far, in the order of the epochs."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the current epoch."""
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._sums, self._count = dict(state["sums"]), state["count"]

    def _add(self, engine: Any) -> None:
        output = engine.state.output[0] if isinstance(engine.state.output, list) else engine.state.output
        for name, value in output.items():
            if is_scalar(value) and name != Keys.LABEL:  # the class of an image is a scalar too
                self._sums[str(name)] = self._sums.get(str(name), 0.0) + float(value)
        self._count += 1

    def _write(self, engine: Any) -> None:
        if engine.state.rank == 0:
            row = self._row(engine)
            rows = [old for old in self.rows() if old["epoch"] < row["epoch"]] + [row]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text_whole(self.path, "".join(json.dumps(line) + "\n" for line in rows))
        self._sums, self._count = {}, 0

    def _row(self, engine: Any) -> dict[str, Any]:
        row: dict[str, Any] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        if engine.optimizer is not None:
            row["lr"] = max(group["lr"] for group in engine.optimizer.param_groups)
        row |= {name: total / self._count for name, total in self._sums.items()}
        if self.validator is not None and self.validator.state.epoch == engine.state.epoch:
            metrics = self.validator.state.metrics
            # JSON has no NaN: a metric that is undefined on these cases is null.
            row["validation"] = {
                name: float(value) if math.isfinite(value) else None
                for name, value in metrics.items()
                if is_scalar(value)
            }
        return row


class LossWeight:
    """Handler of the trainer that writes what all losses of a run were divided by, by which sites are averaged.

    The file holds ``{"weight": W}``. A run that was killed within its only epoch and goes on counts from there, so list
    the handler among the ``stateful`` of :class:`~monai_essa.engines.checkpoint.RunCheckpoint`.

    Args:
        step: of the trainer, which knows the weight of its last batch.
        path: the file.

    Example:
        >>> from types import SimpleNamespace
        >>> weight = LossWeight(SimpleNamespace(weight=2.0), "loss_weight.json")
        >>> weight.add(None); weight.add(None)
        >>> weight.state_dict()
        {'weight': 4.0}
    """

    def __init__(self, step: Any, path: str | Path) -> None:
        self.step = step
        self.path = Path(path)
        self._weight = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def add(self, engine: Any) -> None:
        """Count the last batch."""
        self._weight += self.step.weight

    def write(self, engine: Any) -> None:
        """Write the file, in the first process."""
        if engine.state.rank == 0:
            write_text_whole(self.path, json.dumps(self.state_dict()) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Return the sum so far."""
        return {"weight": self._weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._weight = float(state["weight"])


class TrainingProgress:
    """Handler of the trainer: logs a text at the start, shows a bar, and estimates the hours after five steps.

    The bar shows the loss and, on CUDA, the largest memory in use so far; tqdm adds the speed. It appears on a terminal
    only, so that a log file is not filled with it. The estimate counts training steps, not validation.

    Args:
        introduction: what to log first, for example ``str(summary(network))``, the trained share.

    Example:
        >>> from monai.engines import SupervisedTrainer
        >>> trainer = SupervisedTrainer(
        ...     device="cpu", max_epochs=1, train_data_loader=[0.5] * 8, network=None, optimizer=None,
        ...     loss_function=None, train_handlers=[TrainingProgress("eight steps")],
        ...     iteration_update=lambda engine, batch: {"loss": batch},
        ... )
        >>> trainer.run()
    """

    def __init__(self, introduction: str = "") -> None:
        self.introduction = introduction
        self._first = 0
        self._since = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI trainer; all but the first process of a distributed run stay silent."""
        if engine.state.rank != 0:  # type: ignore[attr-defined]
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._estimate)
        bar = ProgressBar(bar_format=_BAR, disable=None)
        bar.attach(engine, output_transform=_shown)

    def _start(self, _: Engine) -> None:
        if self.introduction:
            logger.info("%s", self.introduction)
        self._first = 0

    def _estimate(self, engine: Any) -> None:
        iteration = engine.state.iteration
        if self._first == 0:
            # The first step loads the first batch and compiles kernels: it is not measured.
            self._first, self._since = iteration, time.perf_counter()
            return
        left = engine.state.max_epochs * engine.state.epoch_length - iteration
        if iteration == self._first + _STEPS_TO_MEASURE and left > 0:
            seconds = (time.perf_counter() - self._since) / _STEPS_TO_MEASURE
            text = "%.2f s a step: about %.2g h for the %d steps left, without validation"
            logger.info(text, seconds, seconds * left / 3600, left)


class TrackedMetrics(MLFlowHandler):
    """MONAI's handler for MLflow, which takes numbers only: a metric with several values becomes one for each.

    The Dice of each class, ``dice``, is logged as ``dice_1``, ``dice_2`` and so on. Arguments are those of
    ``monai.handlers.MLFlowHandler``. It needs the extra ``tracking``.
    """

    def epoch_completed(self, engine: Engine) -> None:
        """Log the metrics of an epoch; those of the engine stay as they are."""
        metrics = engine.state.metrics
        engine.state.metrics = dict(_numbers(metrics))
        try:
            super().epoch_completed(engine)
        finally:
            engine.state.metrics = metrics


def patch_introduction(img_size: Sequence[int], spacing: Sequence[float], items: Sequence[Mapping[str, Any]]) -> str:
    """Return the first line of a log: the size of a patch in mm and the share of the median scan that it covers.

    Args:
        img_size: voxels of a patch along the axes R, A, S.
        spacing: mm of a voxel.
        items: of a datalist, with an ``image`` each.

    Returns:
        One line.
    """
    patch = np.multiply(img_size, spacing)
    chosen = items[:: -(-len(items) // _MOST_SCANS)]
    scan = np.median([_extent(item["image"]) for item in chosen], axis=0)[: len(patch)]
    share = float(np.prod(np.minimum(patch, scan) / scan))
    count = f"{len(chosen)} scan{'' if len(chosen) == 1 else 's'}"
    return f"patch: {_mm(patch)}, holds {share:.0%} of the median scan ({_mm(scan)}; {count} read)"


def _shown(output: Any) -> dict[str, Any]:
    entries = output[0] if isinstance(output, list) else output
    shown = {"loss": float(entries[Keys.LOSS])}
    if (peak := peak_bytes()) is not None:
        shown["GB"] = peak / 1e9
    return shown


def _extent(image: str | Sequence[str]) -> np.ndarray:
    """Return the size in mm along R, A, S; an oblique scan counts along its nearest axes."""
    array, affine = read_volume(image)
    return ras_size(affine, array.shape[1:])


def _mm(extent: np.ndarray) -> str:
    return " x ".join(f"{size:.0f}" for size in extent) + " mm"


def _numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        values = np.ravel(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        for number, each in enumerate(values, start=1):
            yield name if len(values) == 1 else f"{name}_{number}", float(each)
