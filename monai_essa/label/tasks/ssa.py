# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""SSA on a site's unlabelled scans, as a train task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai.bundle
import yaml
from monai.bundle import ConfigParser
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.others.generic import name_to_device

from monai_essa.bundling.folder import bundle_folder
from monai_essa.label.requests import config_text
from monai_essa.label.store import SSA
from monai_essa.outside import Check, Number

__all__ = ["UnlabelledStage", "ssa_values"]

_IN_MEMORY = 32  # preprocessed volumes in the cache; a site has many more volumes than labels
# Network, method and preprocessing are the bundle's.
_SHARED = ("method", "hidden_size", "mlp_dim", "num_heads", "spacing", "img_size", "in_channels", "intensity")


class UnlabelledStage:
    """Train the tensors of the bundle's method by essa_ssa, from the bundle's own encoder; labels are not read.

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
        """Train, and return the number of volumes and the held-out losses of the first and the last epoch.

        Raises:
            ValueError: if there are fewer than two volumes, since one is held out.
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


def ssa_values(bundle: Path) -> dict[str, Any]:
    """Take network, method and preprocessing from a bundle, and objective and learning rate from essa_ssa's overlays.

    The objective is that of the network's overlay: MAE for a UNETR, SimMIM for a SwinUNETR and a SegResNet. A network
    without an overlay gets SimMIM, which takes any encoder. The learning rate is that of the method's overlay.

    Args:
        bundle: folder of a copy of essa_segmentation, with weights.

    Returns:
        The values, by key of essa_ssa's train.yaml.
    """
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.yaml"))
    values = {key: parser[key] for key in (*_SHARED, "intensity_name", "axcodes") if key in parser}
    # Its references are resolved here, since they may name any key of the bundle.
    values["network_def"] = parser.get_parsed_content("network_def", instantiate=False).get_config()
    if "axcodes" not in values:  # a bundle of an earlier version
        steps = [*parser["load"], *parser.get("orient", [])]
        values["axcodes"] = next(step["axcodes"] for step in steps if step["_target_"] == "Orientationd")
    values |= {"pretrained": str(bundle / "models" / "model.pt"), "handover": "adapter"}

    network = _overlay("network", values["network_def"]) or _read("objective_simmim.yaml")
    chosen = {"objective": network.get("objective"), "lr": _overlay("method", values["method"]).get("lr")}
    return values | {key: value for key, value in chosen.items() if value is not None}


def _losses(run: Path) -> list[float]:
    rows = [json.loads(row) for row in (run / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    return [round(row["validation"]["loss"], 4) for row in (rows[0], rows[-1])]


def _overlay(kind: str, component: Any) -> dict[str, Any]:
    """Return the overlay for the class of a component; {} if there is none, and for a list of methods."""
    key = {"network": "network_def", "method": "method"}[kind]
    for path in sorted((bundle_folder("essa_ssa") / "configs").glob(f"{kind}_*.yaml")):
        overlay = _read(path.name)
        if isinstance(component, dict) and overlay[key]["_target_"] == component["_target_"]:
            return overlay
    return {}


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load((bundle_folder("essa_ssa") / "configs" / name).read_text(encoding="utf-8"))
