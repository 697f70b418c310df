# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Epochs: how many, in which order, which one is kept, and the start of the trainer that runs them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from monai.engines import Evaluator, Workflow
from monai.handlers import CheckpointSaver
from monai.utils.enums import CommonKeys as Keys
from monai.utils.misc import MAX_SEED, get_seed

from monai_essa.data.loading.keyed import KeyedSampler
from monai_essa.distributed.processes import names_lost_process, process_count, wait_for_all
from monai_essa.engines.folder.run_folder import run_iterations
from monai_essa.engines.stop import says_what_is_smaller, stops_on_sigterm

__all__ = [
    "BestMetric",
    "RestoreBest",
    "SamplerEpoch",
    "check_foreground",
    "check_validation_interval",
    "extra_epochs",
    "run_trainer",
]


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
        """Return the best metric, its epoch, and (score, file name) of the best checkpoints."""
        state = self.evaluator.state
        saved = [] if self.saver is None else self._checkpoint().state_dict()["_saved"]
        return {
            "best_metric": float(state.best_metric),
            "best_metric_epoch": int(state.best_metric_epoch),
            "saved": [(float(score), str(name)) for score, name in saved],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; a best checkpoint that is gone from the disk is forgotten."""
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
        """Load the checkpoint, when the first process has written it."""
        wait_for_all()
        if not self.path.is_file():
            self.evaluator.run(engine.state.epoch)
            wait_for_all()
        self.network.load_state_dict(torch.load(self.path, weights_only=True))


class SamplerEpoch:
    """Handler of the trainer that calls ``set_epoch`` of its loader's :class:`~monai_essa.data.KeyedSampler`.

    Ignite knows after a resume that an epoch is half done, but gives the batches of that epoch from the first one on.
    The sampler leaves out those that are done.

    Example:
        >>> from monai.data import DataLoader, Dataset
        >>> from monai.engines import SupervisedTrainer
        >>> from monai_essa.data.loading.keyed import KeyedDataset
        >>> keyed = KeyedDataset(Dataset([3, 4, 5], transform=None))
        >>> seen = []
        >>> trainer = SupervisedTrainer(
        ...     device="cpu", max_epochs=2, train_data_loader=DataLoader(keyed, sampler=KeyedSampler(3)), network=None,
        ...     optimizer=None, loss_function=None, train_handlers=[SamplerEpoch()],
        ...     iteration_update=lambda engine, batch: seen.append(int(batch)),
        ... )
        >>> trainer.run()
        >>> sorted(seen[:3]), sorted(seen[3:])
        ([3, 4, 5], [3, 4, 5])
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI trainer.

        Args:
            engine: trainer whose ``data_loader`` draws from a :class:`~monai_essa.data.loading.keyed.KeyedSampler`.

        Raises:
            TypeError: if it draws from something else.
        """
        sampler = getattr(engine.data_loader, "sampler", None)  # type: ignore[attr-defined]
        if not isinstance(sampler, KeyedSampler):
            raise TypeError(
                f"SamplerEpoch needs a data loader with sampler=KeyedSampler(len(dataset), seed), "
                f"got {type(sampler).__name__}"
            )
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Set the epoch.

        Raises:
            ValueError: if an epoch of the trainer is not one pass over its loader.
        """
        loader, state = engine.data_loader, engine.state
        if state.epoch_length != len(loader):
            raise ValueError(
                f"epoch_length {state.epoch_length} is not the {len(loader)} batches of the data loader: leave "
                f"epoch_length out and give KeyedSampler samples_per_epoch={state.epoch_length * loader.batch_size}"
            )
        done = state.iteration - (state.epoch - 1) * state.epoch_length
        loader.sampler.set_epoch(state.epoch, skip=done * loader.batch_size)


def extra_epochs(
    run: str | Path | None, samples: int | None, batch_size: int, start: str = "encoder", items: Sequence[Any] = ()
) -> int:
    """Count the epochs of this run that take the steps of an earlier run, rounded up.

    A network that target parameter pre-training (arXiv 2408.15011) prepared has taken more steps on the same images;
    a run without it that trains on for as many steps shows whether more steps are all that it was.

    Args:
        run: folder of the finished run of that stage; None: no such control, no epoch more.
        samples: of an epoch of this run; None: each of the items once.
        batch_size: of each process of this run.
        start: of this run: an adapter file would bring what the earlier run learned.
        items: that this run trains on.

    Returns:
        Epochs to add.

    Raises:
        FileNotFoundError: if the folder holds no run.
        ValueError: if that run is not finished, or the start is ``"adapter"``.

    Example:
        >>> import tempfile
        >>> from monai_essa.engines import finish_run, open_run
        >>> tpp = open_run(tempfile.mkdtemp(), {"lr": 1.0e-3}, {"training": []}, seed=0).folder
        >>> finish_run(tpp, iterations=101)
        >>> extra_epochs(tpp, samples=8, batch_size=2)
        26
    """
    if run is None:
        return 0
    if start == "adapter":
        raise ValueError(f"equal_steps is the control of a run that does not start from {run}: set start: encoder")
    return math.ceil(run_iterations(run) / math.ceil((samples or len(items)) / (batch_size * process_count())))


def run_trainer(trainer: Workflow, seed: int, settings: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Run a trainer, if the bundle's ``initialize`` has run: what it checks and seeds must come before the first step.

    Args:
        trainer: MONAI's, or another engine of ignite with a loader.
        seed: the seed of the run, which ``initialize`` gives to ``monai.utils.set_determinism``.
        settings: ``lean``, ``batch_size`` and ``img_size`` of the run, to name smaller ones where memory runs out.

    Raises:
        RuntimeError: if that seed is not the one in use, memory runs out, or another process of the run is lost.
        SystemExit: after SIGTERM, as :func:`~monai_essa.engines.stop.stops_on_sigterm` says.
    """
    if get_seed() != int(seed) % MAX_SEED:
        raise RuntimeError(
            f"expected 'initialize' to have set the seed {seed} before 'run', got {get_seed()}: the run would be "
            "unchecked and not repeatable; run both, as python -m monai.bundle run does"
        )
    with names_lost_process(), stops_on_sigterm(trainer), says_what_is_smaller(trainer, settings):
        trainer.run()
