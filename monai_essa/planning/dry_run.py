# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The steps of a dry run: a training config that writes nothing, the check of its data, timed steps, the disk space."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from monai_essa.adapters.summary import summary
from monai_essa.bundling.folder import check_configs
from monai_essa.data import DataCheck, check_datalist
from monai_essa.data.lists.read import listed_path, read_datalist, section_items
from monai_essa.devices import peak_bytes, reset_peak, wait_for_gpu

__all__ = ["DiskSpace", "Trial", "check_training_data", "disk_space", "dry_config", "dry_trial", "try_steps"]

# What the training configs of this library define, in addition to what MONAI asks for.
_NEEDED = ("datalist", "training_items", "validation_items", "introduction", "output_dir", "network", "dry_run")
_ENGINE = ("objective", "train#trainer", "initialize")
_STEPS = 2


@dataclass(frozen=True)
class DiskSpace:
    """The disk space of a run.

    Attributes:
        needed: bytes that the run writes.
        free: bytes that are free.
        folder: the run folder, or the nearest folder above it that exists.
    """

    needed: int
    free: int
    folder: Path


def dry_config(config_files: Sequence[str], values: Mapping[str, Any]) -> ConfigParser:
    """Read a training config and switch off what would write.

    Args:
        config_files: merged in order.
        values: over those of the configs, by id.

    Returns:
        The parser.

    Raises:
        FileNotFoundError: if a config does not exist.
        ValueError: if the config is not a training config of this library's bundles.
    """
    check_configs(config_files)
    parser = ConfigParser()
    parser.read_config(list(config_files))
    parser.update(dict(values))
    missing = [key for key in (*_NEEDED, *_ENGINE) if key not in parser]
    if missing:
        raise ValueError(
            f"{config_files[0]} has no '{missing[0]}'; --dry-run is for a train.yaml of monai_essa, of this version: "
            "get one by 'monai-essa bundles copy'"
        )
    parser["dry_run"] = True  # disables what would write, in the config itself
    return parser


def check_training_data(parser: ConfigParser) -> DataCheck:
    """Check the sections that a training takes items from: a config may select them by folds, aliases or a limit.

    Args:
        parser: of :func:`dry_config`.

    Returns:
        The problems, and a summary of the scans.

    Raises:
        FileNotFoundError: if the data list does not exist.
        ValueError: if the data list is damaged, or has no such section.
    """
    items = [*parser.get_parsed_content("training_items"), *parser.get_parsed_content("validation_items")]
    label_map = parser.get_parsed_content("label_map") if "label_map" in parser else None
    path = Path(parser.get_parsed_content("datalist"))
    used = {str(item["image"]) for item in items}
    sections = [
        section
        for section, listed in section_items(read_datalist(path))
        if used & {_image(entry, path.parent) for entry in listed}
    ]
    return check_datalist(path, sections, label_map=label_map)


def dry_trial(parser: ConfigParser) -> Trial:
    """Do what a run does first (set the seed, check the configuration), then take two training steps.

    Args:
        parser: of :func:`dry_config`.

    Returns:
        The measurement.
    """
    for number in range(len(parser["initialize"])):
        parser.get_parsed_content(f"initialize#{number}")
    return try_steps(parser)


def disk_space(parser: ConfigParser) -> DiskSpace:
    """Compute the disk space that a run needs, and look up how much is free.

    Args:
        parser: of :func:`dry_config`, after :func:`dry_trial`.

    Returns:
        The space for two resume files with two optimizer moments each, the adapter file, and the best and the merged
        network.
    """
    objective, network = (parser.get_parsed_content(name) for name in ("objective", "network"))
    learning = sum(parameter.nbytes for parameter in objective.parameters() if parameter.requires_grad)
    whole = sum(tensor.nbytes for tensor in network.state_dict().values())
    needed = 2 * 3 * learning + summary(network).adapter_bytes + 2 * whole
    folder = Path(parser.get_parsed_content("output_dir")).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return DiskSpace(needed, shutil.disk_usage(existing).free, existing)


@dataclass(frozen=True)
class Trial:
    """What the steps showed.

    Attributes:
        loss: of the last step.
        step_seconds: forward, backward and optimizer, the median of all steps but the first, which fills memory pools.
        batch_seconds: to load a batch, likewise.
        steps: that the run will take.
        device: where the steps ran.
        memory_bytes: the largest use of CUDA memory; None on another device.
    """

    loss: float
    step_seconds: float
    batch_seconds: float
    steps: int
    device: torch.device
    memory_bytes: int | None


def try_steps(parser: ConfigParser, most: int = _STEPS, cached: bool = False) -> Trial:
    """Take the first steps of a bundle's trainer without its handlers, since those write.

    Args:
        parser: of a training config with MONAI's usual ids; the handlers are switched off in it.
        most: how many steps are taken; fewer if the run has fewer.
        cached: fill the cache first; by default no cache is made.

    Returns:
        The measurement.

    Raises:
        ValueError: if the config has no ``train#trainer``.
    """
    if "train#trainer" not in parser:
        raise ValueError("the config has no 'train#trainer'; --dry-run is for training configs")
    parser["train#trainer#train_handlers"] = []
    for key, value in {"cache_rate": float(cached), "cache_dir": None}.items():
        if key in parser:
            parser[key] = value
    parser.parse(reset=True)
    trainer: Any = parser.get_parsed_content("train#trainer")
    steps = trainer.state.max_epochs * trainer.state.epoch_length
    reset_peak(trainer.state.device)
    trainer.logger.disabled = True  # it would print an error twice before the one line of the command
    watch = _Stopwatch(trainer, min(steps, most))
    trainer.run()

    output = trainer.state.output[0] if isinstance(trainer.state.output, list) else trainer.state.output
    return Trial(
        loss=float(output["loss"]),
        step_seconds=_typical(watch.steps),
        batch_seconds=_typical(watch.batches),
        steps=steps,
        device=trainer.state.device,
        memory_bytes=peak_bytes(trainer.state.device),
    )


def _image(entry: Any, base: Path) -> str:
    image = entry.get("image", "") if isinstance(entry, dict) else entry
    return str([listed_path(part, base) for part in image] if isinstance(image, list) else listed_path(image, base))


class _Stopwatch:
    """Times the batches and steps of an engine, and ends it after some."""

    def __init__(self, engine: Engine, steps: int) -> None:
        self.batches: list[float] = []
        self.steps: list[float] = []
        self._most = steps
        self._since = 0.0
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._batch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _start(self, _: Engine) -> None:
        self._since = time.perf_counter()

    def _batch(self, _: Engine) -> None:
        self.batches.append(time.perf_counter() - self._since)

    def _step(self, engine: Engine) -> None:
        wait_for_gpu()
        self.steps.append(time.perf_counter() - self._since)
        if engine.state.iteration >= self._most:
            engine.terminate()


def _typical(seconds: list[float]) -> float:
    return statistics.median(seconds[1:] or seconds)
