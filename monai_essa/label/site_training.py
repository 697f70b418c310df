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

__all__ = ["SiteTraining", "Stage"]

_logger = logging.getLogger(__name__)


class Stage(Protocol):
    """What a training learns from, and how.

    Attributes:
        description: one line for the clients.
        options: what a request may set beside the device, the adapter and undo, with the defaults.
    """

    description: str
    options: Mapping[str, Any]

    def train(self, request: Mapping[str, Any], datastore: Datastore, run: Path) -> dict[str, Any]:
        """Write ``adapter.safetensors`` into a new run folder, and tell what is worth to be noted about it."""


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
        """List the versions of each site; ``best_metric`` is what 3D Slicer draws, the Dice of the last adapter."""
        versions = {name: self.adapters.versions(name) for name in self.adapters.sites()}
        last = [entry["dice"] for name in self.adapters.names()[:1] for entry in versions[name] if entry.get("dice")]
        return {"best_metric": last[-1] if last else 0, "adapters": versions}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, or undo.

        Raises:
            ValueError: if there is nothing to learn from or to undo, or a value is none that the task takes.
        """
        name = request.get("adapter") or "default"
        self.adapters.check_trainable(name)
        if request.get("undo", False):
            result: dict[str, Any] = {"version": self.adapters.undo(name)}
        else:
            begun, run = time.monotonic(), next_run_folder(self.runs / name)
            note = self.stage.train(request | {"adapter": name}, datastore, run)
            note["seconds"] = round(time.monotonic() - begun)
            result = {"version": self.adapters.add(name, run / "adapter.safetensors", note)} | note
        _logger.info("the newest version of adapter %s now: %s", name, result)
        return {"adapter": name} | result
