# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Supervised training of an adapter on the labels submitted so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai.bundle
import yaml
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.others.generic import name_to_device

from monai_essa.label.adapter_store import SSA, AdapterStore
from monai_essa.label.labelled_split import split_labelled

__all__ = ["LabelledStage"]


class LabelledStage:
    """Trains the tensors of the bundle's method, its decoder and its head.

    Args:
        bundle: the bundle's folder.
        adapters: whose newest version a training goes on from. After an SSA that is its tensors of the method, with the
            decoder and the head of the bundle.
    """

    description = "Trains an adapter of the bundle on the labels submitted so far, in minutes"
    options: Mapping[str, Any] = {
        "pretrained": True,  # go on from the site's newest version; else from the bundle's model.pt
        "max_epochs": 10,
        "samples_per_epoch": 8,  # crops, at least one of each volume
        "val_split": 0.2,
    }

    def __init__(self, bundle: Path, adapters: AdapterStore) -> None:
        self.bundle = bundle
        self.adapters = adapters

    def train(self, request: Mapping[str, Any], datastore: Datastore, run: Path) -> dict[str, Any]:
        """Train, and note how many labels there were, and the Dice of the best epoch.

        Raises:
            ValueError: if there is no label, or ``val_split`` is no share.
        """
        wanted = {**self.options, **request}
        items = [{"image": item["image"], "label": item["label"]} for item in datastore.datalist()]
        training, validation = split_labelled(items, float(wanted["val_split"]))
        epochs = int(wanted["max_epochs"])
        config = self.bundle / "configs" / "train.yaml"
        train = yaml.safe_load(config.read_text(encoding="utf-8"))
        values: dict[str, Any] = {
            "bundle_root": str(self.bundle),
            "output_dir": str(run),
            "pretrained": str(self.bundle / "models" / "model.pt"),
            "train#dataset#data": training,
            "validate#dataset#data": validation,
            "max_epochs": epochs,
            "samples_per_epoch": max(len(training), int(wanted["samples_per_epoch"])),
            "val_interval": max(1, epochs // 4),
            "device": name_to_device(wanted.get("device")),
            # Without what start_bundle.yaml adds: here the adapter is the result.
            "run": [entry for entry in train["run"] if "publish_model" not in entry],
        }
        values |= self._start(wanted["adapter"] if wanted["pretrained"] else None, train["network"])
        monai.bundle.run(config_file=str(config), meta_file=str(config.with_name("metadata.json")), **values)
        return {"labels": len(items), "epochs": epochs, "dice": _dice(run)}

    def _start(self, site: str | None, network: Mapping[str, Any]) -> dict[str, Any]:
        newest = self.adapters.newest(site) if site is not None else None
        if site is None or newest is None:
            return {"start": "encoder"}
        file = str(self.adapters.file(site, newest["version"]))
        if newest.get("stage") == SSA:
            return {"start": "adapter", "adapter": file}
        goes_on = {"_target_": "monai_essa.load_adapter", "network": dict(network), "path": file}
        return {"start": "encoder", "network": goes_on, "adapter": file}


def _dice(run: Path) -> float | None:
    rows = map(json.loads, (run / "losses.jsonl").read_text(encoding="utf-8").splitlines())
    scores = [row["validation"]["val_mean_dice"] for row in rows if "validation" in row]
    return round(max(scores), 4) if scores else None
