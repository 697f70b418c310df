# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Exact resume: a run that is killed and started again ends as if it had not been."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn as nn
from ignite.engine import Engine, Events

from monai_essa.engines.resume_file import read_resume_file, write_resume_file

__all__ = ["RunCheckpoint", "Stateful"]

logger = logging.getLogger(__name__)

_VERSION = 2  # 1 masked a cell less, and its pretext decoder had norms of another epsilon: no exact resume


class Stateful(Protocol):
    """What a checkpoint can keep: optimizers, schedulers and handlers have these two methods."""

    def state_dict(self) -> Mapping[str, Any]:
        """Give tensors and plain values."""

    def load_state_dict(self, state: Any) -> Any:
        """Take over what ``state_dict`` gave."""


class RunCheckpoint:
    """Handler of the trainer that goes on from the last checkpoint, and writes checkpoints.

    Saved are the tensors of the objective that can change (trainable parameters and all buffers), the state of
    ``stateful``, and the iteration. Frozen parameters come from the pretrained file, and random numbers are keyed, so
    neither is saved. A tensor that changes without a gradient, such as an average of weights, must be a buffer.

    A checkpoint is written at the end of each epoch, after all other handlers of that event (validation, logs), and
    after every ``every`` iterations within one. Where gradients are being accumulated it waits for the optimizer step.
    Put it first in the list of handlers: what others do when the run starts, they then do after the resume.

    Args:
        folder: folder of the resume files.
        objective: the objective; every process of a distributed run reads the files, the first one writes them.
        stateful: what else has a state, by name: ``optimizer``, ``lr_scheduler``, ``train_step``, ``best_metric`` ...
        fingerprint: of the configuration; a checkpoint with another one is refused.
        every: iterations between two checkpoints within an epoch; default: none within an epoch.

    Example:
        >>> import tempfile
        >>> from monai.engines import SupervisedTrainer
        >>> from monai_essa.engines.train_step import TrainStep
        >>> from monai_essa.engines.supervised import Supervised
        >>> def trainer(folder, epochs):
        ...     objective = Supervised(nn.Conv3d(1, 1, 1), nn.MSELoss())
        ...     optimizer = torch.optim.AdamW(objective.parameters())
        ...     batch = {"image": torch.zeros(1, 1, 4, 4, 4), "label": torch.ones(1, 1, 4, 4, 4)}
        ...     return SupervisedTrainer(
        ...         device="cpu", max_epochs=epochs, train_data_loader=[batch], network=objective, loss_function=None,
        ...         optimizer=optimizer, iteration_update=TrainStep(objective),
        ...         train_handlers=[RunCheckpoint(folder, objective, {"optimizer": optimizer}, "tiny")],
        ...     )
        >>> folder = tempfile.mkdtemp()
        >>> trainer(folder, epochs=1).run()
        >>> again = trainer(folder, epochs=3)
        >>> again.run(); again.optimizer.state_dict()["state"][0]["step"].item()
        3.0
    """

    def __init__(
        self,
        folder: str | Path,
        objective: nn.Module,
        stateful: Mapping[str, Stateful],
        fingerprint: str,
        every: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.objective = objective
        self.stateful = dict(stateful)
        self.fingerprint = fingerprint
        self.every = every
        self._due = False

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self._start)

    def save(self, engine: Any) -> None:
        """Write a checkpoint now."""
        self._due = False
        if engine.state.rank != 0:
            return
        content = {
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "iteration": engine.state.iteration,
            "epoch_length": engine.state.epoch_length,
            "objective": self._changing(),
            "stateful": {name: owner.state_dict() for name, owner in self.stateful.items()},
        }
        write_resume_file(self.folder, engine.state.iteration, content)

    def _start(self, engine: Any) -> None:
        content = read_resume_file(self.folder)
        if content is not None:
            self._check(content, engine)
            self._load(content, engine)
        # The other handlers of these events are all attached by now, so the checkpoint comes after them.
        if not engine.has_event_handler(self.save, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_within_epoch)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def _save_within_epoch(self, engine: Any) -> None:
        iteration = engine.state.iteration
        self._due = self._due or (self.every is not None and iteration % self.every == 0)
        accumulating = any(parameter.grad is not None for parameter in self.objective.parameters())
        if self._due and not accumulating and iteration % engine.state.epoch_length != 0:
            self.save(engine)

    def _changing(self) -> dict[str, torch.Tensor]:
        named = self.objective.named_parameters(remove_duplicate=False)
        frozen = {name for name, parameter in named if not parameter.requires_grad}
        return {name: tensor for name, tensor in self.objective.state_dict().items() if name not in frozen}

    def _check(self, content: Mapping[str, Any], engine: Any) -> None:
        ours = {"version": _VERSION, "fingerprint": self.fingerprint, "epoch_length": engine.state.epoch_length}
        differ = [f"{name} {content[name]} there, {own} here" for name, own in ours.items() if content[name] != own]
        if _shapes(content["objective"]) != _shapes(self._changing()):
            differ.append("other trainable tensors")
        if set(content["stateful"]) != set(self.stateful):
            differ.append(f"state of {sorted(content['stateful'])} there, {sorted(self.stateful)} here")
        if differ:
            raise ValueError(
                f"{self.folder} holds the checkpoint of another configuration ({'; '.join(differ)}): "
                "give another output folder, or go on with the old configuration"
            )

    def _load(self, content: Mapping[str, Any], engine: Any) -> None:
        # Copied tensor by tensor: load_state_dict() would tell an adapted network that it has a new base.
        tensors = self._changing()
        for name, saved in content["objective"].items():
            tensors[name].copy_(saved)
        for name, owner in self.stateful.items():
            owner.load_state_dict(content["stateful"][name])
        engine.state.iteration = content["iteration"]
        engine.state.epoch = content["iteration"] // content["epoch_length"]
        logger.info("going on from %s after iteration %d", self.folder, engine.state.iteration)


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
