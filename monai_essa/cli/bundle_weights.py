# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Takes the weights of a finished run into a bundle, if they fit it exactly."""

from __future__ import annotations

import shutil
from pathlib import Path

from monai.bundle import ConfigParser

from monai_essa.cli.adapter_merge import network_of_config, save_weights
from monai_essa.cli.bundle_run import finished_record
from monai_essa.engines import setting_fingerprints, shown_settings
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


def _check_same_configuration(train: Path, run: Path) -> None:
    record = finished_record(run)
    parser = ConfigParser()
    parser.read_config(str(train))
    for name in (name for name in _IDENTITY if name in record["config"]):
        group = {name: parser.get_parsed_content(f"record#config#{name}")}
        if setting_fingerprints(group)[name] != record["config"][name]:
            settings = shown_settings(group)
            raise ValueError(
                f"{run} was made with another {', '.join(settings)} than {list(settings.values())}: give what the run "
                "had by --network, --intensity, --labels and --args"
            )
