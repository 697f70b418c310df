# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Where the memory of a training step goes, one bar for each way to train. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from monai_essa.outside import math_free
from monai_essa.report.figures import COLOURS, TEXT_SIZE, blank_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cost_bars"]

_GIB = 2**30


def cost_bars(costs: Mapping[str, Mapping[str, int]], title: str = "Peak memory of a training step") -> Figure:
    """Draw weights, optimizer with gradients, and activations with temporaries, stacked to the peak.

    Args:
        costs: by the name of each way to train, a mapping with ``weight_bytes``, ``gradient_bytes``,
            ``optimizer_bytes`` and ``peak_bytes``.
        title: says what is seen.

    Returns:
        The figure.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there is no cost.

    Example:
        >>> one = {"weight_bytes": 4, "gradient_bytes": 1, "optimizer_bytes": 2, "peak_bytes": 9}
        >>> cost_bars({"APLA": one}).axes[0].get_xlabel()
        'GiB'
    """
    if not costs:
        raise ValueError("costs is empty: expected the cost of at least one way to train, by its name")
    figure = blank_figure(height=0.9 + 0.34 * len(costs))
    axes = figure.add_subplot()
    names = list(costs)[::-1]  # the first on top
    parts = {name: _parts(costs[name]) for name in names}
    places = range(len(names))
    left = [0.0] * len(names)
    for number, label in enumerate(("weights", "gradients and optimizer", "activations and temporaries")):
        widths = [parts[name][number] for name in names]
        axes.barh(places, widths, left=left, label=label, color=COLOURS[number], height=0.7)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    whole = left[-1]  # of the first, the yardstick
    for position, total in enumerate(left):
        axes.text(total + 0.01 * max(left), position, f"{total:.2f} ({total / whole:.0%})", va="center", fontsize=8)
    axes.set_xlim(0, 1.18 * max(left))
    axes.set_yticks(places, list(map(math_free, names)))
    axes.set_xlabel("GiB", fontsize=TEXT_SIZE)
    axes.set_title(math_free(title), fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _parts(cost: Mapping[str, int]) -> tuple[float, float, float]:
    weights, learning = cost["weight_bytes"], cost["gradient_bytes"] + cost["optimizer_bytes"]
    # Gradients appear while activations go, so that the parts may be more than the peak together.
    rest = max(0, cost["peak_bytes"] - weights - learning)
    return weights / _GIB, (cost["peak_bytes"] - weights - rest) / _GIB, rest / _GIB
