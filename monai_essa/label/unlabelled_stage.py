# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Self-supervised adaptation (SSA) of a bundle's encoder to all volumes of the studies folder, without labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai.bundle
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.others.generic import name_to_device

from monai_essa.bundle_folder import bundle_folder
from monai_essa.label.adapter_store import SSA
from monai_essa.label.request_records import config_text
from monai_essa.label.ssa_values import ssa_values
from monai_essa.outside import Check, Number

__all__ = ["UnlabelledStage"]

_IN_MEMORY = 32  # preprocessed volumes that are kept there; a site has many more of them than labels


class UnlabelledStage:
    """Trains the tensors of the bundle's method by essa_ssa, from the bundle's own encoder; labels are not read.

    Args:
        bundle: the bundle's folder.
    """

    description = (
        "Adapts the encoder to all volumes of the studies without labels (SSA): a start for the training on labels"
    )
    options: Mapping[str, Any] = {"max_epochs": 10, "samples_per_epoch": 32}
    checks: Mapping[str, Check] = {
        "max_epochs": Number(1, 10_000, whole=True),
        "samples_per_epoch": Number(1, 1_000_000, whole=True),
    }

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle

    def train(self, request: Mapping[str, Any], datastore: Datastore, run: Path) -> dict[str, Any]:
        """Train, and note how many volumes there were, and the held-out loss of the first and the last epoch.

        Raises:
            ValueError: if there are fewer than two volumes: one is held out.
        """
        wanted = {**self.options, **request}
        images = [datastore.get_image_uri(image) for image in sorted(datastore.list_images())]
        items = [{"image": config_text(image, "image")} for image in images]
        if len(items) < 2:
            raise ValueError(f"SSA learns from the volumes of the studies: expected 2 or more, there are {len(items)}")
        epochs = int(wanted["max_epochs"])
        values: dict[str, Any] = ssa_values(self.bundle) | {
            "output_dir": config_text(run, "run folder"),
            "items": items,
            "max_epochs": epochs,
            "samples_per_epoch": int(wanted["samples_per_epoch"]),
            "cache_rate": min(1.0, _IN_MEMORY / len(items)),
            "device": config_text(name_to_device(wanted.get("device")), "device"),
        }
        configs = bundle_folder("essa_ssa") / "configs"
        monai.bundle.run(config_file=str(configs / "train.yaml"), meta_file=str(configs / "metadata.json"), **values)
        return {"stage": SSA, "images": len(items), "epochs": epochs, "loss": _losses(run)}


def _losses(run: Path) -> list[float]:
    rows = [json.loads(row) for row in (run / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    return [round(row["validation"]["loss"], 4) for row in (rows[0], rows[-1])]
