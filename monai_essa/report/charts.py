# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Charts of numbers: loss curves, and the Dice of each test case. Needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from monai_essa.outside import math_free
from monai_essa.report.figures import COLOURS, TEXT_SIZE, blank_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["dice_by_case", "loss_curves"]

_DASHES = ("-", "--", "-.", ":")  # beside the colour, for prints in grey


def loss_curves(
    logs: Mapping[str, Mapping[str, np.ndarray]], column: str = "loss", title: str = "Training loss"
) -> Figure:
    """Draw one curve per run over its iterations (epochs, where a log has no iterations).

    Args:
        logs: logs as `read_loss_log` gives them, by the name of the run.
        column: the column to draw.
        title: says what is seen.

    Returns:
        The figure.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if a log lacks ``column``, or has neither iterations nor epochs.

    Example:
        >>> log = {"epoch": np.array([1.0, 2.0]), "loss": np.array([0.9, 0.7])}
        >>> loss_curves({"SSA": log}).axes[0].get_xlabel()
        'epoch'
    """
    unit = _common_unit(logs, column)
    figure = blank_figure(height=3.2)
    axes = figure.add_subplot()
    for number, (name, log) in enumerate(logs.items()):
        known = ~np.isnan(log[column])
        (line,) = axes.plot(log[unit][known], log[column][known], linewidth=1.6, marker="o", markersize=3)
        line.set(color=COLOURS[number % len(COLOURS)], linestyle=_DASHES[number % len(_DASHES)], label=math_free(name))
    axes.set_xlabel(unit, fontsize=TEXT_SIZE)
    axes.set_ylabel(math_free(column), fontsize=TEXT_SIZE)
    axes.set_title(math_free(title), fontsize=TEXT_SIZE)
    axes.legend(fontsize=TEXT_SIZE, frameon=False)
    _plain_axes(axes)
    return figure


def dice_by_case(scores: Mapping[str, Mapping[str, Sequence[float]]], title: str = "Dice of each test case") -> Figure:
    """Draw a dot per case, a thin line between the dots of one case, and a bar at the mean of each method.

    Args:
        scores: Dice by method and class; the same cases in the same order for every method. NaN is left out.
        title: says what is seen.

    Returns:
        The figure: one panel per class.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there is no method.

    Example:
        >>> len(dice_by_case({"SSA": {"gray": [0.8, 0.7], "white": [0.6, 0.7]}}).axes)
        2
    """
    if not scores:
        raise ValueError("scores is empty: expected Dice by method and class")
    classes = list(next(iter(scores.values())))
    figure = blank_figure(height=3.4)
    panels = figure.subplots(1, len(classes), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, classes, strict=True):
        values = np.array([list(by_class[name]) for by_class in scores.values()], dtype=float)  # (methods, cases)
        _dots(axes, values)
        axes.set_xticks(range(len(scores)), list(map(_wrapped, scores)), fontsize=TEXT_SIZE)
        axes.set_xlim(-0.5, len(scores) - 0.3)
        axes.set_title(math_free(name), fontsize=TEXT_SIZE)
        _plain_axes(axes)
    panels[0].set_ylabel("Dice", fontsize=TEXT_SIZE)
    figure.suptitle(math_free(title), fontsize=TEXT_SIZE)
    return figure


def _wrapped(text: str) -> str:
    """Break a name into lines; escaped after that, since a break within an escape would undo it."""
    return "\n".join(map(math_free, textwrap.wrap(text, 12)))


def _common_unit(logs: Mapping[str, Mapping[str, np.ndarray]], column: str) -> str:
    for name, log in logs.items():
        if column not in log or not {"iteration", "epoch"} & set(log):
            raise ValueError(
                f"the log of {name!r} has the columns {list(log)}, expected {column}, and iteration or epoch"
            )
    return "iteration" if all("iteration" in log for log in logs.values()) else "epoch"


def _dots(axes: Axes, values: np.ndarray) -> None:
    positions = np.arange(len(values))
    axes.plot(positions, values, color="0.75", linewidth=0.8, zorder=1)
    for position, method in enumerate(values):
        colour = COLOURS[position % len(COLOURS)]
        axes.scatter(np.full(len(method), position), method, color=colour, s=22, alpha=0.8, zorder=2)
        if not np.isnan(method).all():
            mean = np.nanmean(method)
            axes.hlines(mean, position - 0.25, position + 0.25, color="black", linewidth=2, zorder=3)
            label = axes.annotate(f"{mean:.3f}", (position + 0.28, mean), va="center", fontsize=TEXT_SIZE, zorder=4)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0})


def _plain_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", alpha=0.3, linewidth=0.6)
