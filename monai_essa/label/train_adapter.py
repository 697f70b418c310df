# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""Training of a site's adapter on the labels submitted so far, and its undo."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import monai.bundle
import yaml
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from monai_essa.engines import next_run_folder
from monai_essa.label.adapter_store import AdapterStore
from monai_essa.label.labelled_split import split_labelled

__all__ = ["TrainAdapter"]

_logger = logging.getLogger(__name__)


class TrainAdapter(TrainTask):
    """Trains the few tensors of the bundle's method, its decoder and its head; model.pt is never written to.

    Args:
        bundle: the bundle's folder.
        adapters: where the result goes, as the newest version of the site that the request names.
    """

    def __init__(self, bundle: Path, adapters: AdapterStore) -> None:
        super().__init__("Trains an adapter of the bundle on the labels submitted so far, in minutes")
        self.bundle = bundle
        self.adapters = adapters

    def config(self) -> dict[str, Any]:
        """Offer what a request may set."""
        return {
            "device": device_list(),
            "adapter": "default",
            "pretrained": True,  # go on from the current version; else from the bundle's model.pt
            "max_epochs": 10,
            "samples_per_epoch": 8,  # crops, at least one of each volume
            "val_split": 0.2,
            "undo": False,  # train nothing: go back to the version before
        }

    def stats(self) -> dict[str, Any]:
        """List the versions of each adapter: labels, epochs, seconds, Dice of the best epoch."""
        return {name: self.adapters.versions(name) for name in self.adapters.names()}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, or undo the last training.

        Raises:
            ValueError: if there is no label, nothing to undo, or a value is none that the task takes.
        """
        name = request.get("adapter") or "default"
        self.adapters.check_trainable(name)
        if request.get("undo", False):
            result: dict[str, Any] = {"adapter": name, "version": self.adapters.undo(name)}
        else:
            items = [{"image": item["image"], "label": item["label"]} for item in datastore.datalist()]
            result = self._train(name, request, items)
        _logger.info("the current version now: %s", result)
        return result

    def _train(self, name: str, request: dict[str, Any], items: list[dict[str, str]]) -> dict[str, Any]:
        training, validation = split_labelled(items, float(request.get("val_split", 0.2)))
        begun, run = time.monotonic(), next_run_folder(self.bundle / "runs" / name)
        epochs, samples = int(request.get("max_epochs", 10)), int(request.get("samples_per_epoch", 8))
        values = self._values(run, epochs, self.adapters.current(name) if request.get("pretrained", True) else None)
        values |= {"train#dataset#data": training, "validate#dataset#data": validation}
        values |= {"samples_per_epoch": max(len(training), samples), "device": name_to_device(request.get("device"))}
        configs = self.bundle / "configs"
        monai.bundle.run(config_file=str(configs / "train.yaml"), meta_file=str(configs / "metadata.json"), **values)

        note = {"labels": len(items), "epochs": epochs, "seconds": round(time.monotonic() - begun), "dice": _dice(run)}
        return {"adapter": name, "version": self.adapters.add(name, run / "adapter.safetensors", note)} | note

    def _values(self, run: Path, epochs: int, adapter: Path | None) -> dict[str, Any]:
        train = yaml.safe_load((self.bundle / "configs" / "train.yaml").read_text(encoding="utf-8"))
        values: dict[str, Any] = {
            "bundle_root": str(self.bundle),
            "output_dir": str(run),
            "start": "encoder",
            "pretrained": str(self.bundle / "models" / "model.pt"),
            "max_epochs": epochs,
            "val_interval": max(1, epochs // 4),
            # Without what start_bundle.yaml adds: here the adapter is the result.
            "run": [entry for entry in train["run"] if "publish_model" not in entry],
        }
        if adapter is not None:
            network = {"_target_": "monai_essa.load_adapter", "network": train["network"], "path": str(adapter)}
            values |= {"network": network, "adapter": str(adapter)}
        return values


def _dice(run: Path) -> float | None:
    rows = map(json.loads, (run / "losses.jsonl").read_text(encoding="utf-8").splitlines())
    scores = [row["validation"]["val_mean_dice"] for row in rows if "validation" in row]
    return round(max(scores), 4) if scores else None
