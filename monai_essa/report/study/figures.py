# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The figures of a study: arms with their patients and intervals, cost against accuracy, reliability and ROC."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from monai_essa.evaluation.metrics import reliability_bins
from monai_essa.outside import math_free
from monai_essa.report.charts import COLOURS, TEXT_SIZE, blank_figure, plain_axes, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ArmPoints", "arms_figure", "cost_figure", "efficiency_figure", "reliability_figure", "roc_figure"]

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # beside the colour, for prints in grey
_INK = "#1a1a1a"


@dataclass(frozen=True)
class ArmPoints:
    """What is drawn of one arm.

    Attributes:
        title: for people.
        patients: a score for each patient.
        mean: over patients; NaN without one.
        low: lower end of its interval; NaN without one.
        high: upper end.
    """

    title: str
    patients: Sequence[float]
    mean: float
    low: float = float("nan")
    high: float = float("nan")


def arms_figure(arms: Sequence[ArmPoints], metric: str, higher_is_better: bool = True) -> Figure:
    """Draw a row for each arm: its patients as dots, its mean and its interval.

    Args:
        arms: from top to bottom.
        metric: what the scores are.
        higher_is_better: the direction, which the axis says.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there is no arm.

    Example:
        >>> arms_figure([ArmPoints("PEFT", [0.7, 0.9], 0.8)], "mean Dice").axes[0].get_xlabel()
        'mean Dice (higher is better)'
    """
    if not arms:
        raise ValueError("arms is empty: expected the scores of at least one arm")
    figure = blank_figure(height=0.85 + 0.52 * len(arms))
    axes = figure.add_subplot()
    for row, arm in enumerate(arms):
        colour, marker = _look(row)
        offsets = _spread_out(len(arm.patients))
        axes.scatter(arm.patients, row + offsets, color=colour, s=16, alpha=0.55, linewidths=0, zorder=2)
        if not np.isnan(arm.low):
            axes.plot([arm.low, arm.high], [row, row], color=_INK, linewidth=2.2, solid_capstyle="butt", zorder=3)
            axes.plot([arm.low] * 2, [row - 0.16, row + 0.16], color=_INK, linewidth=1.6, zorder=3)
            axes.plot([arm.high] * 2, [row - 0.16, row + 0.16], color=_INK, linewidth=1.6, zorder=3)
        if not np.isnan(arm.mean):
            axes.plot(arm.mean, row, marker=marker, markersize=7, color=colour, markeredgecolor=_INK, zorder=4)
            axes.annotate(f"{arm.mean:.3f}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_yticks(range(len(arms)), [wrapped(arm.title, 18) for arm in arms], fontsize=TEXT_SIZE)
    axes.set_ylim(len(arms) - 0.4, -0.6)  # the first on top
    axes.set_xlabel(f"{math_free(metric)} ({'higher' if higher_is_better else 'lower'} is better)", fontsize=TEXT_SIZE)
    plain_axes(axes, "x")
    return figure


def cost_figure(points: Mapping[str, tuple[float, float]], metric: str, unit: str = "minutes of training") -> Figure:
    """Draw the accuracy of each arm against what it costs.

    Args:
        points: cost and mean score of each arm, by its title.
        metric: what the scores are.
        unit: of the cost.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there is no arm.

    Example:
        >>> len(cost_figure({"PEFT": (3.0, 0.8)}, "mean Dice").axes[0].collections)
        1
    """
    if not points:
        raise ValueError("points is empty: expected the cost and the score of at least one arm")
    figure = blank_figure(height=2.9 + 0.24 * math.ceil(len(points) / 2))
    axes = figure.add_subplot()
    for number, (title, (cost, score)) in enumerate(points.items()):
        colour, marker = _look(number)
        axes.scatter(
            [cost], [score], color=colour, marker=marker, s=60, edgecolors=_INK, label=wrapped(title, 28), zorder=3
        )
    axes.margins(0.15)
    axes.set_xlim(left=0)
    axes.ticklabel_format(useOffset=False)
    axes.set_xlabel(math_free(unit), fontsize=TEXT_SIZE)
    axes.set_ylabel(wrapped(metric, 26), fontsize=TEXT_SIZE)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    plain_axes(axes, "both")
    return figure


def efficiency_figure(curves: Mapping[str, Sequence[tuple[int, float, float, float]]], metric: str) -> Figure:
    """Draw the mean of each arm over the number of labelled patients.

    Args:
        curves: labelled patients, mean and both ends of its interval, by the title of the arm.
        metric: what the scores are.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:
        >>> efficiency_figure({"PEFT": [(3, 0.6, 0.5, 0.7), (10, 0.7, 0.6, 0.8)]}, "mean Dice").axes[0].get_xlabel()
        'labelled patients'
    """
    figure = blank_figure(height=2.9 + 0.24 * math.ceil(len(curves) / 2))
    axes = figure.add_subplot()
    for number, (title, points) in enumerate(curves.items()):
        counts, means, lows, highs = (np.array(column, dtype=float) for column in zip(*sorted(points), strict=True))
        colour, marker = _look(number)
        beside = counts * 1.04**number  # so that intervals of one count do not cover each other
        errors = np.abs(np.nan_to_num(np.stack([means - lows, highs - means])))
        axes.errorbar(
            beside, means, yerr=errors, color=colour, marker=marker, capsize=3, linewidth=1.4, label=wrapped(title, 28)
        )
    ticks = sorted({point[0] for points in curves.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.set_xlabel("labelled patients", fontsize=TEXT_SIZE)
    axes.set_ylabel(wrapped(metric, 26), fontsize=TEXT_SIZE)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    plain_axes(axes, "both")
    return figure


def reliability_figure(probabilities: np.ndarray, truth: np.ndarray, bins: int = 10) -> Figure:
    """Draw how often predictions of a confidence are right, and how many there are of each.

    Args:
        probabilities: (N, C).
        truth: (N, C) of 0 and 1.
        bins: of the confidence, equally wide.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:
        >>> truth = np.eye(2, dtype=int)[[0, 1, 1]]
        >>> len(reliability_figure(0.2 + 0.6 * truth, truth).axes)
        2
    """
    confidence = probabilities.max(1)
    right = truth[np.arange(len(truth)), probabilities.argmax(1)] > 0
    held = reliability_bins(confidence, right, bins)
    columns = ("low", "high", "decisions", "confidence", "accuracy")
    low, high, counts, said, shares = (np.array([each[name] for each in held]) for name in columns)

    figure = blank_figure(height=4.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1.2, label="as often right as it says")
    above.plot(said, shares, color=COLOURS[0], marker="o", linewidth=1.6, label="measured")
    above.set_ylabel("share that is right", fontsize=TEXT_SIZE)
    above.set_ylim(-0.03, 1.03)
    above.legend(fontsize=8, frameon=False)
    below.bar(low, counts, width=high - low, align="edge", color=COLOURS[0], edgecolor="white")
    below.set_ylabel("images", fontsize=TEXT_SIZE)
    below.locator_params(axis="y", integer=True, nbins=3)
    below.set_xlabel("probability of the predicted class", fontsize=TEXT_SIZE)
    for axes in (above, below):
        plain_axes(axes, "both")
    return figure


def roc_figure(probabilities: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw the ROC curve of each class against the others; of two classes, that of the second.

    Args:
        probabilities: (N, C).
        truth: (N, C) of 0 and 1.
        classes: names of the C classes. One without a positive and a negative case has no curve.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:
        >>> truth = np.eye(2, dtype=int)[[0, 1, 1]]
        >>> len(roc_figure(0.2 + 0.6 * truth, truth, ["normal", "ill"]).axes[0].lines)
        2
    """
    figure = blank_figure(height=3.6)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1.2, label="chance")
    for number in range(1 if len(classes) == 2 else 0, len(classes)):
        positive = truth[:, number] > 0
        if positive.all() or not positive.any():
            continue
        false_alarms, found = _roc(probabilities[:, number], positive)
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(false_alarms, found, color=colour, linewidth=1.6, label=wrapped(classes[number], 30))
    axes.set_aspect("equal")
    axes.set_xlabel("1 - specificity", fontsize=TEXT_SIZE)
    axes.set_ylabel("sensitivity", fontsize=TEXT_SIZE)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    plain_axes(axes, "both")
    return figure


def _look(number: int) -> tuple[str, str]:
    """Return colour and marker, whose pairs differ for as many arms as a study has."""
    return COLOURS[number % len(COLOURS)], _MARKERS[(number + number // len(COLOURS)) % len(_MARKERS)]


def _roc(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false positive and true positive rates at each distinct threshold, from the highest on."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(positive[order])[last_of_ties]
    misses = np.cumsum(~positive[order])[last_of_ties]
    return np.append(0, misses / max(1, misses[-1])), np.append(0, hits / max(1, hits[-1]))


def _spread_out(count: int) -> np.ndarray:
    """Return small vertical offsets, the same for each call, so that dots of equal scores stay apart."""
    golden = 0.6180339887498949
    return (np.arange(count) * golden % 1 - 0.5) * 0.5
