# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Checks, without touching the run folder, that a training config would run, and says what it would cost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn as nn
from monai.bundle import ConfigParser

from monai_essa.adapters.summary import summary
from monai_essa.bundling.folder import check_configs
from monai_essa.cli.data_commands import print_check
from monai_essa.data import DataCheck, check_datalist
from monai_essa.data.lists.read import listed_path, read_datalist, section_items
from monai_essa.planning.trial import Trial, try_steps

__all__ = ["dry_run"]

# What this library's training configs define, beside what MONAI asks for.
_NEEDED = ("datalist", "training_items", "validation_items", "introduction", "output_dir", "network", "dry_run")
_ENGINE = ("objective", "train#trainer", "initialize")


def dry_run(config_files: Sequence[str], values: Mapping[str, Any]) -> int:
    """Check the data, take two training steps and print what the run would cost.

    Args:
        config_files: merged in order.
        values: over those of the configs, by id.

    Returns:
        0, or 1 if the data has errors or the disk is too small.

    Raises:
        FileNotFoundError: if a config or a file that it names does not exist.
        ValueError: if the config is not a training config of this library's bundles.
    """
    parser = _parser(config_files, values)
    items = [*parser.get_parsed_content("training_items"), *parser.get_parsed_content("validation_items")]
    label_map = parser.get_parsed_content("label_map") if "label_map" in parser else None
    check = _check_data(Path(parser.get_parsed_content("datalist")), items, label_map)
    print_check(check)
    if check.errors:
        print("the data has errors, so nothing was built: repair the files or leave them out")
        return 1

    _initialize(parser)
    trial = try_steps(parser)
    print(*_cost_lines(trial), sep="\n")
    print(parser.get_parsed_content("introduction"))
    print(summary(parser.get_parsed_content("network")).table())
    return _report_disk(
        Path(parser.get_parsed_content("output_dir")),
        _needed_bytes(parser.get_parsed_content("objective"), parser.get_parsed_content("network")),
    )


def _parser(config_files: Sequence[str], values: Mapping[str, Any]) -> ConfigParser:
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


def _initialize(parser: ConfigParser) -> None:
    """Do what a run does first: the seed, and the checks of the configuration."""
    for number in range(len(parser["initialize"])):
        parser.get_parsed_content(f"initialize#{number}")


def _check_data(
    path: Path, items: Sequence[Mapping[str, Any]], label_map: Mapping[float, int] | None = None
) -> DataCheck:
    """Check the sections that the items come from: a config may name them by folds, aliases or a limit."""
    used = {str(item["image"]) for item in items}
    sections = [
        section
        for section, listed in section_items(read_datalist(path))
        if used & {_image(entry, path.parent) for entry in listed}
    ]
    return check_datalist(path, sections, label_map=label_map)


def _image(entry: Any, base: Path) -> str:
    image = entry.get("image", "") if isinstance(entry, dict) else entry
    return str([listed_path(part, base) for part in image] if isinstance(image, list) else listed_path(image, base))


def _cost_lines(trial: Trial) -> Iterator[str]:
    yield f"loss: {trial.loss:.4g} after a step"
    yield f"time: {trial.step_seconds:.2f} s a step, {trial.batch_seconds:.2f} s to load a batch without the cache"
    whole = _duration(trial.steps * trial.step_seconds)
    yield f"estimate: {trial.steps:,} steps, about {whole}, without loading and validation"
    memory = "measured on CUDA only" if trial.memory_bytes is None else f"{trial.memory_bytes / 1e9:.2f} GB"
    yield f"memory: {memory} (this run: {trial.device})"


def _duration(seconds: float) -> str:
    units = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
    unit, size = next((unit for unit in units if seconds >= unit[1]), units[-1])
    return f"{seconds / size:.2g} {unit}"


def _report_disk(folder: Path, needed: int) -> int:
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    print(f"disk: about {needed / 1e9:.2f} GB needed, {free / 1e9:.1f} GB free at {existing}")
    return 0 if free > needed else 1


def _needed_bytes(objective: nn.Module, network: nn.Module) -> int:
    """Two resume files with two optimizer moments each, the adapter file, the best and the merged network."""
    learning = sum(parameter.nbytes for parameter in objective.parameters() if parameter.requires_grad)
    whole = sum(tensor.nbytes for tensor in network.state_dict().values())
    return 2 * 3 * learning + summary(network).adapter_bytes + 2 * whole
