# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The comparison that a study or the demo ends with: Dice, trained parameters, time and adapter size per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from monai_essa.report.tables import ResultTable

__all__ = ["MethodResult", "results_table"]


@dataclass(frozen=True)
class MethodResult:
    """What one method reached.

    Args:
        name: the method as the reader knows it.
        dice: Dice of each test case by class name; NaN where neither label nor prediction holds the class.
        trainable: number of trained parameters.
        total: number of all parameters.
        seconds: wall-clock time of training.
        adapter_bytes: size of the adapter file, None where there is none.
        intervals: 95 % bootstrap interval of the mean Dice by class name, where it was computed.
    """

    name: str
    dice: Mapping[str, Sequence[float]]
    trainable: int
    total: int
    seconds: float
    adapter_bytes: int | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def results_table(results: Sequence[MethodResult]) -> ResultTable:
    """Set the methods side by side, in the order given; no row is left out and none is marked as the winner.

    Args:
        results: one per method, all with the classes of the first.

    Returns:
        A table for `format_table` or the HTML report.

    Raises:
        ValueError: if there is no result, or the methods have other classes or other numbers of cases.

    Example:
        >>> result = MethodResult("APLA", {"spleen": [0.9, 0.8]}, trainable=10, total=100, seconds=2.0)
        >>> results_table([result]).rows
        [['APLA', '0.850', '10 (10.0%)', '2.0', '-']]
    """
    classes, cases = _shape(results)
    headers = ["method", *(f"Dice, {name}" for name in classes), "trained parameters", "seconds", "adapter"]
    rows = [
        [
            result.name,
            *(_mean_dice(result, name) for name in classes),
            f"{result.trainable:,} ({result.trainable / result.total:.1%})",
            f"{result.seconds:.1f}",
            _size(result.adapter_bytes),
        ]
        for result in results
    ]
    note = f"Dice: mean over {cases} test case{'s' if cases != 1 else ''}"
    if any(result.intervals for result in results):
        note += ", in brackets its 95 % bootstrap interval over cases"
    return ResultTable("Segmentation of the test cases by method", headers, rows, f"{note}.")


def _shape(results: Sequence[MethodResult]) -> tuple[list[str], int]:
    if not results:
        raise ValueError("results is empty: expected one MethodResult per method")
    classes = list(results[0].dice)
    cases = len(next(iter(results[0].dice.values()), ()))
    for result in results:
        if list(result.dice) != classes or any(len(values) != cases for values in result.dice.values()):
            found = {name: len(values) for name, values in result.dice.items()}
            raise ValueError(f"{result.name!r} has Dice of {found} cases, expected {dict.fromkeys(classes, cases)}")
    return classes, cases


def _mean_dice(result: MethodResult, name: str) -> str:
    values = np.asarray(result.dice[name], dtype=float)
    values = values[~np.isnan(values)]
    if not values.size:
        return "-"
    interval = result.intervals.get(name)
    return f"{values.mean():.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
