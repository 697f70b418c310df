# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Takes the weights of a finished run into a bundle, if they fit it exactly."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_essa.cli.adapter_merge import network_of_config, save_weights
from monai_essa.engines import config_fingerprints
from monai_essa.outside import shown
from monai_essa.weights import load_weights

__all__ = ["take_weights"]

# Entries of run.json that say which network, and on which images, the weights are for.
_IDENTITY = ("network", "width", "images", "labels")


def take_weights(bundle: Path, run: Path) -> None:
    """Write models/model.pt, for the network of inference.yaml, and copy the adapter file beside it.

    Args:
        bundle: the bundle's folder.
        run: folder of a finished run.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if the run is not finished, or of another network, preprocessing or label set than the bundle.
    """
    _check_same_configuration(bundle / "configs" / "train.yaml", run)
    network = network_of_config([bundle / "configs" / "inference.yaml"], {})
    report = load_weights(network, run / "model.pt")
    inexact = [*report.inflated, *report.interpolated, *report.missing]
    if inexact:
        raise ValueError(
            f"{run / 'model.pt'} does not fit the bundle's network: '{inexact[0].name}' {inexact[0].reason}; choose "
            "the network and the values of the run"
        )
    save_weights(network, bundle / "models" / "model.pt")
    if (run / "adapter.safetensors").is_file():
        shutil.copy2(run / "adapter.safetensors", bundle / "models")


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected the JSON record of a run, got {error}; copy it again") from error
    if not isinstance(record, dict) or "status" not in record or not isinstance(record.get("config"), dict):
        raise ValueError(f"{path}: expected the record of a run with 'status' and 'config', got {shown(record)}")
    return record


def _check_same_configuration(train: Path, run: Path) -> None:
    path = run / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the folder of a finished run")
    record = _record(path)
    if record["status"] != "finished":
        raise ValueError(f"{run} holds an unfinished run; start it again with the same command to finish it")

    parser = ConfigParser()
    parser.read_config(str(train))
    for name in (name for name in _IDENTITY if name in record["config"]):
        place = f"record#config#{name}"
        value = parser.get_parsed_content(place)
        if config_fingerprints({name: value})[name] != record["config"][name]:
            keys = ", ".join(re.findall(r"@(\w+)", str(parser[place])))
            raise ValueError(
                f"{run} was made with another {keys} than {value}: give what the run had by --network, --intensity, "
                "--labels and --args"
            )
