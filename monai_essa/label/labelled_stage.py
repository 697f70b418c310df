# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Supervised training of an adapter on the labels submitted so far."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import yaml
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.others.generic import name_to_device

from monai_essa.label.adapter_store import SSA, AdapterStore
from monai_essa.label.held_out import compared, volume_digests
from monai_essa.label.labelled_split import split_labelled
from monai_essa.label.request_records import config_text
from monai_essa.outside import Check, Flag, Number

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
        """Train, and note how many labels there were, the Dice of the best epoch, and whether the result is to be used.

        Raises:
            ValueError: if there is no label, or ``val_split`` is no share.
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
        goes_on = {"_target_": "monai_essa.load_adapter", "network": dict(network), "path": file}
        return {"start": "encoder", "network": goes_on, "adapter": file}


def _dice(run: Path) -> float | None:
    rows = map(json.loads, (run / "losses.jsonl").read_text(encoding="utf-8").splitlines())
    scores = [row["validation"]["val_mean_dice"] for row in rows if "validation" in row]
    return max((round(score, 4) for score in scores if score is not None), default=None)
