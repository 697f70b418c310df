# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints from which a killed run goes on to the same bits."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn as nn
from ignite.engine import Engine, Events

from monai_essa.adapters.identity import sha256_of_all
from monai_essa.distributed.processes import check_alike, in_several_processes
from monai_essa.files import file_sha256, unfinished, written_whole

__all__ = [
    "RunCheckpoint",
    "Stateful",
    "delete_resume_files",
    "has_resume_files",
    "read_resume_file",
    "write_resume_file",
]

logger = logging.getLogger(__name__)
_VERSION = 2  # 1 masked a cell less, and its pretext decoder had norms of another epsilon: no exact resume
_UNNAMED = "resume.partial"  # a checkpoint is called by its own digest, so it is written before it has a name
_NAME = re.compile(r"resume_(\d+)-([0-9a-f]{16})\.pt")


class Stateful(Protocol):
    """What a checkpoint can keep: optimizers, schedulers and handlers have these two methods."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return tensors and plain values."""

    def load_state_dict(self, state: Any) -> Any:
        """Take over what ``state_dict`` returned."""


class RunCheckpoint:
    """Handler of the trainer that resumes from the last checkpoint, and writes checkpoints.

    Saved are the tensors of the objective that can change (trainable parameters and all buffers), the state of
    ``stateful``, and the iteration. Frozen parameters come from the pretrained file, and random numbers are keyed, so
    neither is saved. A tensor that changes without a gradient, such as an average of weights, must be a buffer.

    A checkpoint is written at the end of each epoch, after all other handlers of that event (validation, logs), and
    after every ``every`` iterations within one, and when the trainer is told to terminate. Where gradients are being
    accumulated it waits for the optimizer step.
    Put it first in the list of handlers: what others do when the run starts, they then do after the resume.
    In a distributed run the first process writes and all read; they compare what they go on with, and a run may go on
    with another number of processes if all batches together stay as large.

    Args:
        folder: folder of the resume files.
        objective: the objective; every process of a distributed run reads the files, the first one writes them.
        stateful: what else has a state, by name: ``optimizer``, ``lr_scheduler``, ``train_step``, ``best_metric`` ...
        fingerprint: of the configuration; a checkpoint with another one is refused.
        every: iterations between two checkpoints within an epoch; default: none within an epoch.

    Example:
        >>> import tempfile
        >>> from monai.engines import SupervisedTrainer
        >>> from monai_essa.engines.steps import TrainStep
        >>> from monai_essa.engines.objectives import Supervised
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
        check_alike(
            configuration=self.fingerprint,
            checkpoint=f"of iteration {engine.state.iteration}",
            trainable_tensors=sha256_of_all(self._changing()) if in_several_processes() else "",
        )
        # The other handlers of these events are all attached by now, so the checkpoint comes after them.
        if not engine.has_event_handler(self.save, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_within_epoch)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def _save_within_epoch(self, engine: Any) -> None:
        iteration = engine.state.iteration
        self._due |= bool(engine.should_terminate) or (self.every is not None and iteration % self.every == 0)
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


def write_resume_file(folder: Path, iteration: int, content: Mapping[str, Any]) -> Path:
    """Write the state of a run after an iteration, then delete all but this file and the one before.

    The name carries the iteration and the first 16 digits of the file's sha256, so that a name and a file are one
    thing on the disk and cannot disagree after a crash.

    Args:
        folder: where the files are; made if missing.
        iteration: number of iterations done.
        content: tensors and plain values (text, numbers, None) in dictionaries, lists and tuples.

    Returns:
        The new file.

    Raises:
        TypeError: if the content holds anything else: it could not be read back without running code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = _plain(content, "state")
    _delete_unfinished(folder)
    with written_whole(folder / _UNNAMED) as temporary, temporary.open("wb") as stream:
        torch.save(plain, stream)
    path = folder / f"resume_{iteration:09d}-{file_sha256(folder / _UNNAMED)[:16]}.pt"
    os.replace(folder / _UNNAMED, path)

    # A file of a later iteration is one that could not be read: this run would have gone on from it.
    before = [file for file in _files(folder) if _iteration(file) < iteration]
    for file in set(_files(folder)) - {path, *before[-1:]}:
        file.unlink()
    return path


def read_resume_file(folder: Path) -> dict[str, Any] | None:
    """Read the newest undamaged file.

    Args:
        folder: where the files are.

    Returns:
        Its content with all tensors on the CPU, or None if there is no file.

    Raises:
        ValueError: if there are files and each one is damaged.
    """
    files = _files(folder)
    for file in reversed(files):
        if file_sha256(file).startswith(_NAME.fullmatch(file.name)[2]):  # type: ignore[index]
            return torch.load(file, map_location="cpu", weights_only=True)
        logger.warning("%s is damaged (its sha256 is not the one in its name): trying the one before", file)
    if files:
        raise ValueError(
            f"all resume files in {folder} are damaged ({', '.join(file.name for file in files)}): "
            "delete the folder to start the run again"
        )
    return None


def delete_resume_files(folder: Path) -> None:
    """Delete what a run wrote into a folder to resume from, and the folder if nothing else is in it."""
    for file in _files(folder):
        file.unlink()
    _delete_unfinished(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def has_resume_files(folder: Path) -> bool:
    """Tell whether a run has written resume files in a folder or below it."""
    return any(_NAME.fullmatch(file.name) for file in folder.rglob("resume_*.pt"))


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _files(folder: Path) -> list[Path]:
    return sorted((file for file in folder.glob("resume_*.pt") if _NAME.fullmatch(file.name)), key=_iteration)


def _iteration(file: Path) -> int:
    return int(_NAME.fullmatch(file.name)[1])  # type: ignore[index]


def _delete_unfinished(folder: Path) -> None:
    """Delete what a run that was killed in the middle of a checkpoint left."""
    for file in [folder / _UNNAMED, *unfinished(folder, _UNNAMED)]:
        file.unlink(missing_ok=True)


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {_plain(name, where): _plain(item, f"{where}.{name}") for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{where}.{number}") for number, item in enumerate(value))
    if isinstance(value, np.generic):
        return value.item()
    # Exact types: a subclass, such as an enumeration, would be stored with the name of its class.
    if value is None or type(value) in (bool, int, float, str, torch.Tensor, torch.nn.Parameter):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}: a resume file keeps tensors and plain values only, "
        "so give its owner a state_dict() of those"
    )
