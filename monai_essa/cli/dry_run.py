# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The report of `monai-essa run --dry-run`: problems of the data, cost of the steps, trained share and disk space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai_essa.adapters.summary import summary
from monai_essa.cli.data_commands import print_check
from monai_essa.planning.dry_run import check_training_data, disk_space, dry_config, dry_trial
from monai_essa.planning.trial import Trial

__all__ = ["dry_run"]


def dry_run(config_files: Sequence[str], values: Mapping[str, Any]) -> int:
    """Check the data, take two training steps and print what the run would cost; the run folder is not touched.

    Args:
        config_files: merged in order.
        values: over those of the configs, by id.

    Returns:
        0, or 1 if the data has errors or the disk is too small.

    Raises:
        FileNotFoundError: if a config or a file that it names does not exist.
        ValueError: if the config is not a training config of this library's bundles.
    """
    parser = dry_config(config_files, values)
    check = check_training_data(parser)
    print_check(check)
    if check.errors:
        print("the data has errors, so nothing was built: repair the files or leave them out")
        return 1

    print(*_cost_lines(dry_trial(parser)), sep="\n")
    print(parser.get_parsed_content("introduction"))
    print(summary(parser.get_parsed_content("network")).table())
    space = disk_space(parser)
    print(f"disk: about {space.needed / 1e9:.2f} GB needed, {space.free / 1e9:.1f} GB free at {space.folder}")
    return 0 if space.free > space.needed else 1


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
