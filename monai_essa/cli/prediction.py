# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Runs the inference config of a bundle on given files, with an adapter where one is wanted."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.handlers import ProgressBar
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_essa.cli.adapter_merge import merge_adapter_file, network_of_config, save_weights
from monai_essa.cli.bundle_config import find_bundle, find_config

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """What computes the prediction.

    Args:
        bundle: folder or name of a bundle with an inference config of MONAI's usual ids.
        values: over those of the config, by id.
        adapter: an adapter file that is merged onto the base weights; default: none.
        base: the weight file that the adapter was trained on; default: the bundle's.
    """

    bundle: str
    values: Mapping[str, Any]
    adapter: Path | None = None
    base: Path | None = None


def predict(prediction: Prediction, inputs: Sequence[Path], output: Path) -> list[Path]:
    """Run inference; results are written by the bundle's own postprocessing.

    Args:
        prediction: what computes it.
        inputs: volumes: files or DICOM folders, as absolute paths.
        output: folder for the results; the sub-folders of the inputs are kept.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: if the weights are missing.
        ValueError: if the bundle has no inference config, or the adapter does not fit.
    """
    config = find_config(prediction.bundle, ("inference",))
    values = {"bundle_root": str(find_bundle(prediction.bundle)), "output_dir": str(output)} | dict(prediction.values)
    # The bundle's logging.conf would print every step between the lines of the progress bar.
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    workflow = ConfigWorkflow(config_file=str(config), workflow_type="infer", logging_file=False, **values)
    workflow.parser["dataset#data"] = [{"image": str(path)} for path in inputs]
    _read_every_format(workflow.parser, os.path.commonpath([path.parent for path in inputs]))

    with tempfile.TemporaryDirectory() as folder:
        weights = _weights(workflow.parser)
        if prediction.adapter is not None:
            network = network_of_config([config], values)
            plain, _ = merge_adapter_file(network, prediction.base or weights, prediction.adapter)
            weights = Path(folder) / "model.pt"
            save_weights(plain, weights)
        _use_weights(workflow.parser, weights)
        workflow.initialize()
        workflow.evaluator.logger.disabled = True  # it would print an error twice before the one line of the command
        ProgressBar(desc="predict", disable=None).attach(workflow.evaluator)
        workflow.run()
        workflow.finalize()
    return sorted(path for path in output.rglob("*") if path.is_file())


def _read_every_format(parser: ConfigParser, root: str) -> None:
    """A published config reads by MONAI's own readers, which lack DICOM, NRRD and MetaImage without itk."""
    for _, loader in _components(parser.config, "LoadImaged"):
        loader.setdefault("reader", "monai_essa.data.VolumeReader")
    for _, saver in _components(parser.config, "SaveImaged"):
        saver.setdefault("data_root_dir", root)
        saver.setdefault("print_log", False)


def _weights(parser: ConfigParser) -> Path:
    loaders = list(_components(parser.config, "CheckpointLoader"))
    if not loaders:
        raise ValueError("the inference config has no CheckpointLoader among its handlers; add one")
    parser.parse(reset=True)
    return Path(parser.get_parsed_content(f"{loaders[0][0]}#load_path"))


def _use_weights(parser: ConfigParser, weights: Path) -> None:
    if not weights.is_file():
        msg = f"{weights}: no such weight file; put the bundle's model.pt there, or give --args checkpoint=FILE"
        raise FileNotFoundError(msg)
    for _, loader in _components(parser.config, "CheckpointLoader"):
        loader["load_path"] = str(weights)


def _components(config: Any, name: str, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Find the components of a class, wherever they stand in a config, with their ids."""
    if isinstance(config, dict) and str(config.get("_target_", "")).rpartition(".")[2] == name:
        yield place, config
    parts = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in parts:
        yield from _components(value, name, f"{place}#{key}" if place else str(key))
