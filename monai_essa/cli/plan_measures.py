# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a plan measures: the peak of a step by the meter, and real steps and loads by the clock."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_essa.adaptation import adaptation_of
from monai_essa.cli.trial_steps import try_steps
from monai_essa.efficiency.cost_plan import Timing
from monai_essa.efficiency.recipe import autocast_dtype, use_recipe
from monai_essa.efficiency.step_cost import step_cost
from monai_essa.outside import check_config_value

__all__ = ["measured_peak", "measured_times", "window_count"]

_STEPS = 5
_LOADS = 3
_OVERLAP = 0.5  # of the sliding windows that essa_segmentation validates by


def measured_peak(config_files: Sequence[str], values: Mapping[str, Any]) -> Callable[[str, int], int]:
    """Prepare the meter for a bundle: nothing is computed, so any batch may be asked for.

    Args:
        config_files: of a bundle of monai_essa, merged in order.
        values: over those of the configs.

    Returns:
        A function of the lean recipe and the batch size: the bytes that a training step takes at most.
    """

    @functools.cache
    def built(lean: str) -> tuple[Any, int, list[int], torch.dtype | None]:
        parser = _parser(config_files, {**values, "lean": lean})
        shape = [parser.get_parsed_content("in_channels"), *parser.get_parsed_content("img_size")]
        precision = parser.get_parsed_content("precision")
        autocast = autocast_dtype(precision)
        return use_recipe(parser.get_parsed_content("objective"), lean, precision), _kept_bytes(parser), shape, autocast

    def peak(lean: str, batch: int) -> int:
        objective, kept, (channels, *sides), autocast = built(lean)
        images = torch.empty(batch, channels, *sides, device="meta")
        # The second input of each objective: a mask of the foreground for SSA, label ids as MONAI loads them.
        second = torch.empty(batch, 1, *sides, device="meta", dtype=torch.float32 if "labels" in values else torch.bool)
        return kept + step_cost(objective, images, second, autocast=autocast).peak_bytes

    return peak


def measured_times(config_files: Sequence[str], values: Mapping[str, Any]) -> tuple[Timing, int | None]:
    """Load three scans and take five training steps on them.

    Args:
        config_files: of a bundle of monai_essa, merged in order.
        values: over those of the configs.

    Returns:
        The seconds, and the largest use of CUDA memory, None on another device.
    """
    parser = _parser(config_files, values)
    # They come from a data list, and go back into a parser that would run some text.
    items = check_config_value(parser.get_parsed_content("training_items")[:_LOADS], "an item of the data list")
    batch = parser.get_parsed_content("batch_size")
    trial = {"training_items": items, "max_epochs": 1, "samples_per_epoch": _STEPS * batch}
    parser = _parser(config_files, {**values, **trial, "cache_rate": 0.0, "cache_dir": None})
    dataset = parser.get_parsed_content("train#dataset")
    begin = time.perf_counter()
    for index in range(len(items)):
        dataset[index]
    scan = (time.perf_counter() - begin) / len(items)
    result = try_steps(_parser(config_files, {**values, **trial}), most=_STEPS, cached=True)
    return Timing(result.step_seconds, result.batch_seconds, scan), result.memory_bytes


def window_count(extent: Sequence[float], spacing: Sequence[float], patch: Sequence[int]) -> int:
    """Count the sliding windows over a scan.

    Args:
        extent: of the scan in mm.
        spacing: in mm.
        patch: in voxels.

    Returns:
        How many patches a validation of the scan takes.

    Example:
        >>> window_count((96, 96, 144), (1, 1, 1), (96, 96, 96))
        2
    """
    sides = [math.ceil(length / size) for length, size in zip(extent, spacing, strict=True)]
    steps = [math.ceil(max(0, side - width) / (width * _OVERLAP)) for side, width in zip(sides, patch, strict=True)]
    return math.prod(step + 1 for step in steps)


def _kept_bytes(parser: ConfigParser) -> int:
    """Count the values before training that an adapted network keeps: on the CPU, so they take nothing of a card."""
    if parser.get_parsed_content("device").type != "cpu":
        return 0
    return sum(value.nbytes for value in adaptation_of(parser.get_parsed_content("network")).base.values())


def _parser(config_files: Sequence[str], values: Mapping[str, Any]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(list(config_files))
    parser.update(dict(values))
    return parser
