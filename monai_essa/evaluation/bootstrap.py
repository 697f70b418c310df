# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Confidence intervals by the percentile bootstrap, over patients where an image is not one of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Interval", "bootstrap_interval"]

_FEW = 50  # below, such intervals are too narrow


@dataclass(frozen=True)
class Interval:
    """A metric with its confidence interval.

    Attributes:
        value: on all items.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap_interval(
    metric: Callable[..., float],
    *arrays: np.ndarray,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Compute a metric with its percentile bootstrap interval (Efron and Tibshirani 1993, section 13.3).

    Patients are drawn with replacement, each with all of its items: the items of one patient tell less than as many
    patients would. Draws on which the metric is undefined (NaN), such as an AUC of one class, are left out. Take means,
    not medians: the bootstrap of a median fails.

    Args:
        metric: called with the arrays, or with the items of a draw from each.
        arrays: with the same number N of items along their first axis.
        groups: the patient of each item, N of them; None where each item is a patient of its own.
        resamples: how many draws.
        level: share of the draws within the interval.
        seed: of the draws.

    Returns:
        The metric on all items, with its interval; its ends are NaN where the metric is undefined on every draw.

    Warns:
        UserWarning: with fewer than 50 patients.

    Raises:
        ValueError: if there are no items, the arrays or groups differ in length, or ``level`` is not within (0, 1).

    Example:
        >>> ages = np.arange(100.0)
        >>> str(bootstrap_interval(lambda values: float(values.mean()), ages))
        '49.500 (43.919 to 55.100)'
    """
    sizes = {len(array) for array in arrays} | ({len(groups)} if groups is not None else set())
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"expected arrays and groups of one length above 0, got lengths {sorted(sizes)}")
    if not 0 < level < 1:
        raise ValueError(f"level must be within (0, 1), got {level}")
    members = _members(range(sizes.pop()) if groups is None else groups)
    if len(members) < _FEW:
        warnings.warn(f"{len(members)} patients or items: below {_FEW}, the interval is too narrow", stacklevel=2)
    draws = np.random.default_rng(seed).integers(len(members), size=(resamples, len(members)))
    drawn = (np.concatenate([members[number] for number in draw]) for draw in draws)
    values = np.array([metric(*(array[items] for array in arrays)) for items in drawn])
    low, high = _percentiles(values[~np.isnan(values)], level)
    return Interval(float(metric(*arrays)), low, high)


def _members(groups: Sequence[Hashable]) -> list[np.ndarray]:
    """List the items of each group, in the order of their first."""
    items: dict[Hashable, list[int]] = {}
    for item, group in enumerate(groups):
        items.setdefault(group, []).append(item)
    return [np.array(numbers) for numbers in items.values()]


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    if len(values) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
