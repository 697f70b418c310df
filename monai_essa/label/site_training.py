# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""A training gives the adapter of a site a new version; undo takes the newest one back."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list

from monai_essa.engines import next_run_folder
from monai_essa.label.adapter_store import AdapterStore
from monai_essa.label.request_records import train_record
from monai_essa.label.task_processes import one_training
from monai_essa.outside import Check

__all__ = ["SiteTraining", "Stage"]

_logger = logging.getLogger(__name__)


class Stage(Protocol):
    """What a training learns from, and how.

    Attributes:
        description: one line for the clients.
        options: what a request may set beside the device, the adapter and undo, with the defaults.
        checks: what each of the options may be.
    """

    description: str
    options: Mapping[str, Any]
    checks: Mapping[str, Check]

    def train(self, request: Mapping[str, Any], datastore: Datastore, run: Path) -> dict[str, Any]:
        """Write ``adapter.safetensors`` into a new run folder, and return what is worth noting about it."""


class SiteTraining(TrainTask):
    """Trains the few tensors of an adapter; the bundle's model.pt is never written to.

    Args:
        stage: what the training learns from.
        runs: folder of the run folders.
        adapters: where the result goes, as the newest version of the site that the request names.
    """

    def __init__(self, stage: Stage, runs: Path, adapters: AdapterStore) -> None:
        super().__init__(stage.description)
        self.stage = stage
        self.runs = runs
        self.adapters = adapters

    def config(self) -> dict[str, Any]:
        """Offer what a request may set."""
        undo = {"undo": False}  # true: train nothing, take the newest version of the site back
        return {"device": device_list(), "adapter": "default"} | dict(self.stage.options) | undo

    def stats(self) -> dict[str, Any]:
        """List the versions of each site; ``best_metric`` is what 3D Slicer draws, the Dice of the last adapter.

        A version without a whole file is marked ``damaged``; ``problems`` says in a line what is used in its place.
        """
        versions = {
            name: [self._shown(name, entry) for entry in self.adapters.versions(name)] for name in self.adapters.sites()
        }
        last = [self.adapters.current_version(name) for name in self.adapters.names()[:1]]
        best = [entry["dice"] for entry in last if entry is not None and entry.get("dice")]
        return {"best_metric": best[-1] if best else 0, "adapters": versions, "problems": self.adapters.problems()}

    def checked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request whose values all are what they may be, with the name of the adapter.

        Raises:
            ValueError: if a field is unknown or a value is none that the task takes, or if there is nothing to undo.
        """
        values = train_record(self.stage.checks).check(request, "training")
        name = values.get("adapter") or "default"
        self.adapters.check_trainable(name)
        if values.get("undo", False):
            self.adapters.check_undoable(name)
        return {key: value for key, value in values.items() if value is not None} | {"adapter": name}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, or undo.

        Raises:
            RuntimeError: if another process trains this bundle.
            ValueError: if there is nothing to learn from or to undo, or as :meth:`checked` says.
        """
        values = self.checked(request)
        name = values["adapter"]
        with one_training(self.runs):
            if values.get("undo", False):
                result: dict[str, Any] = {"version": self.adapters.undo(name)}
            else:
                begun, run = time.monotonic(), next_run_folder(self.runs / name)
                note = self.stage.train(values, datastore, run)
                note["seconds"] = round(time.monotonic() - begun)
                result = {"version": self.adapters.add(name, run / "adapter.safetensors", note)} | note
        self._tell(name, result)
        return {"adapter": name} | result

    def _tell(self, name: str, result: Mapping[str, Any]) -> None:
        if result.get("promoted", True):
            _logger.info("the newest version of adapter %s now: %s", name, result)
            return
        held_out = result["held_out"]
        _logger.warning(
            "adapter %s: version %d is kept but not used: its Dice on %d held-out volumes is %.4f, that of what is in "
            "use %.4f",
            *(name, result["version"], held_out["volumes"], held_out["dice"], held_out["before"]),
        )

    def _shown(self, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        shown = {key: value for key, value in entry.items() if key != "trained_on"}
        return shown if self.adapters.is_whole(name, entry["version"]) else shown | {"damaged": True}
