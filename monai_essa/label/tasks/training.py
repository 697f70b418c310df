# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Train an adapter on a site's labels, and promote it unless it is worse on held-out labels."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import monai.bundle
import yaml
from monai.bundle import ConfigParser
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from monai_essa.engines import next_run_folder
from monai_essa.files import sha256
from monai_essa.label.requests import config_text, train_record
from monai_essa.label.store import SSA, AdapterStore
from monai_essa.label.tasks.processes import one_training
from monai_essa.outside import Check, Flag, Number

__all__ = [
    "LabelledStage",
    "SiteTraining",
    "TrainingStage",
    "compared",
    "held_out_dice",
    "split_labelled",
    "volume_digests",
]

_logger = logging.getLogger(__name__)
Item = dict[str, str]


class TrainingStage(Protocol):
    """What a training of the app learns from, and how.

    Attributes:
        description: one line for the clients.
        options: the defaults of what a request may set in addition to the device, the adapter and undo.
        checks: the check of each option.
    """

    description: str
    options: Mapping[str, Any]
    checks: Mapping[str, Check]

    def train(self, request: Mapping[str, Any], datastore: Datastore, run: Path) -> dict[str, Any]:
        """Write ``adapter.safetensors`` into a new run folder, and return the note for the history."""


class SiteTraining(TrainTask):
    """Train the few tensors of an adapter; the bundle's model.pt is never written to.

    Args:
        stage: what the training learns from.
        runs: the folder that holds the run folders.
        adapters: the store that gets the result, as the newest version of the site that the request names.
    """

    def __init__(self, stage: TrainingStage, runs: Path, adapters: AdapterStore) -> None:
        super().__init__(stage.description)
        self.stage = stage
        self.runs = runs
        self.adapters = adapters

    def config(self) -> dict[str, Any]:
        """Return the options of a request with their defaults."""
        undo = {"undo": False}  # true: take back the newest version of the site instead of training
        return {"device": device_list(), "adapter": "default"} | dict(self.stage.options) | undo

    def stats(self) -> dict[str, Any]:
        """List the versions of each site; ``best_metric`` is what 3D Slicer draws, the Dice of the last adapter.

        A version whose file is missing or damaged is marked ``damaged``; ``problems`` says what is used in its place.
        """
        versions = {
            name: [self._shown(name, entry) for entry in self.adapters.versions(name)] for name in self.adapters.sites()
        }
        last = [self.adapters.current_version(name) for name in self.adapters.names()[:1]]
        best = [entry["dice"] for entry in last if entry is not None and entry.get("dice")]
        return {"best_metric": best[-1] if best else 0, "adapters": versions, "problems": self.adapters.problems()}

    def checked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request after a check of all its values, with the name of the adapter.

        Raises:
            ValueError: if a field is unknown or a value not valid, or if there is nothing to undo.
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


class LabelledStage:
    """Train the tensors of the bundle's method, its decoder and its head.

    Args:
        bundle: the bundle's folder.
        adapters: the store whose newest version a training goes on from. After an SSA that means the method's tensors
            of the SSA with the decoder and the head of the bundle.
    """

    description = "Trains an adapter of the bundle on the labels submitted so far, in minutes"
    options: Mapping[str, Any] = {
        "pretrained": True,  # go on from the site's newest version; else from the bundle's model.pt
        "max_epochs": 10,
        "samples_per_epoch": 8,  # crops, at least one of each volume
        "val_split": 0.2,
    }
    checks: Mapping[str, Check] = {
        "pretrained": Flag(),
        "max_epochs": Number(1, 10_000, whole=True),
        "samples_per_epoch": Number(1, 1_000_000, whole=True),
        "val_split": Number(0, 0.99),
    }

    def __init__(self, bundle: Path, adapters: AdapterStore) -> None:
        self.bundle = bundle
        self.adapters = adapters

    def train(self, request: Mapping[str, Any], datastore: Datastore, run: Path) -> dict[str, Any]:
        """Train, and return the number of labels, the Dice of the best epoch, and whether to use the result.

        Raises:
            ValueError: if there are no labels, or ``val_split`` is not at least 0 and below 1.
        """
        wanted = {**self.options, **request}
        site, device = wanted["adapter"], name_to_device(wanted.get("device"))
        items = [{key: config_text(item[key], key) for key in ("image", "label")} for item in datastore.datalist()]
        training, validation = split_labelled(items, float(wanted["val_split"]))
        epochs = int(wanted["max_epochs"])
        config = self.bundle / "configs" / "train.yaml"
        train = yaml.safe_load(config.read_text(encoding="utf-8"))
        values: dict[str, Any] = {
            "bundle_root": config_text(self.bundle, "bundle"),
            "output_dir": config_text(run, "run folder"),
            "pretrained": str(self.bundle / "models" / "model.pt"),
            "train#dataset#data": training,
            "validate#dataset#data": validation,
            "max_epochs": epochs,
            "samples_per_epoch": max(len(training), int(wanted["samples_per_epoch"])),
            "val_interval": max(1, epochs // 4),
            "device": config_text(device, "device"),
            "publish": False,  # start_bundle.yaml would; here the adapter is the result
        }
        begins_from = self.adapters.newest(site) if wanted["pretrained"] else None
        values |= self._start(site, begins_from, train["network"])
        monai.bundle.run(config_file=str(config), meta_file=str(config.with_name("metadata.json")), **values)
        earlier = (begins_from or {}).get("trained_on", [])
        seen = sorted({*volume_digests(training), *earlier})
        note = {"labels": len(items), "epochs": epochs, "dice": _dice(run), "trained_on": seen}
        return note | self._verdict(site, validation, seen, run / "adapter.safetensors", device)

    def _verdict(
        self, site: str, validation: Sequence[dict[str, str]], seen: Sequence[str], new: Path, device: str
    ) -> dict[str, Any]:
        """Compare with what the site uses now, on the volumes that neither trained on."""
        current = self.adapters.current_version(site)
        trained_on = {*seen, *((current or {}).get("trained_on", []))}
        unseen = [item for item in validation if volume_digests([item])[0] not in trained_on]
        return compared(self.bundle, unseen, new, self.adapters.current(site), device)

    def _start(self, site: str, begins_from: Mapping[str, Any] | None, network: Mapping[str, Any]) -> dict[str, Any]:
        if begins_from is None:
            return {"start": "encoder"}
        file = config_text(self.adapters.file(site, begins_from["version"]), "adapter")
        if begins_from.get("stage") == SSA:
            return {"start": "adapter", "adapter": file}
        goes_on = {"_target_": "monai_essa.adapters.file.load_adapter", "network": dict(network), "path": file}
        return {"start": "encoder", "network": goes_on, "adapter": file}


def split_labelled(items: Sequence[Item], val_split: float) -> tuple[list[Item], list[Item]]:
    """Split by a digest of the image's name, so that a volume stays on its side as more labels come in.

    A run without validation keeps no best epoch, so with one label or a ``val_split`` of 0 the training volumes
    validate too.

    Args:
        items: ``{"image": path, "label": path}`` of each volume.
        val_split: the share of volumes for validation, at least 0 and below 1.

    Returns:
        The items that train, and those that validate.

    Raises:
        ValueError: if there are no labels, or ``val_split`` is out of range.
    """
    if not items:
        raise ValueError("no labels: submit at least one label with the tag 'final', then train")
    if not 0 <= val_split < 1:
        raise ValueError(f"val_split must be at least 0 and below 1, got {val_split}")
    ordered = sorted(items, key=lambda item: sha256(Path(item["image"]).name))
    count = min(max(1, round(val_split * len(ordered))), len(ordered) - 1) if val_split > 0 else 0
    if count == 0:
        _logger.warning("the epoch is chosen on the %d training volumes: their Dice says nothing of others", len(items))
        return ordered, ordered
    return ordered[count:], ordered[:count]


def volume_digests(items: Sequence[Item]) -> list[str]:
    """Return digests of the names of volumes for the history, which may leave the site.

    Example:
        >>> volume_digests([{"image": "/studies/case_00.nii.gz"}])
        ['874f2ee12fdae91c']
    """
    return sorted(sha256(Path(item["image"]).name)[:16] for item in items)


def held_out_dice(bundle: Path, items: Sequence[Item], adapter: Path | None, device: str) -> float | None:
    """Compute the mean Dice of the bundle's network with an adapter, as the bundle's own validation does.

    Args:
        bundle: the bundle's folder.
        items: ``{"image": path, "label": path}`` of each volume.
        adapter: an adapter file; None for the bundle alone.
        device: the device to run on.

    Returns:
        The Dice; None if it is undefined because there is no foreground.
    """
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.yaml"))
    checkpoint = str(bundle / "models" / "model.pt")
    network: dict[str, Any] = {"_target_": "monai_essa.engines.trained_network", "checkpoint": checkpoint}
    network["network"] = "$@network_def.to(@device)"
    if adapter is not None:
        network = {"_target_": "monai_essa.adapters.file.load_adapter", "network": network, "path": str(adapter)}
    parser.update({"network": network, "device": device, "bundle_root": str(bundle), "cache_rate": 0.0})
    parser.update({"validate#dataset#data": list(items), "validate#handlers": []})
    evaluator = parser.get_parsed_content("validate#evaluator")
    evaluator.run()
    dice = float(evaluator.state.metrics["val_mean_dice"])
    return dice if math.isfinite(dice) else None


def compared(bundle: Path, items: Sequence[Item], new: Path, before: Path | None, device: str) -> dict[str, Any]:
    """Compare a new adapter with what is in use, on the same volumes.

    Args:
        bundle: the bundle's folder.
        items: labelled volumes that neither trained on.
        new: the new adapter.
        before: the adapter in use; None for the bundle alone.
        device: the device to run on.

    Returns:
        Entries for the history: ``held_out``, and ``promoted``, which is false if the new one is worse. Empty without
        volumes, or if the Dice of one adapter is undefined.
    """
    if not items:
        return {}
    dice, dice_before = (held_out_dice(bundle, items, adapter, device) for adapter in (new, before))
    if dice is None or dice_before is None:
        return {}
    held_out = {"volumes": len(items), "dice": round(dice, 4), "before": round(dice_before, 4)}
    return {"held_out": held_out, "promoted": dice >= dice_before}


def _dice(run: Path) -> float | None:
    rows = map(json.loads, (run / "losses.jsonl").read_text(encoding="utf-8").splitlines())
    scores = [row["validation"]["val_mean_dice"] for row in rows if "validation" in row]
    return max((round(score, 4) for score in scores if score is not None), default=None)
