# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Charts: loss curves, with the loss logs that they are drawn from, Dice by case, costs."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from monai_essa.files import written_whole
from monai_essa.outside import math_free

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "TEXT_SIZE",
    "WIDTH",
    "blank_figure",
    "cost_bars",
    "dice_by_case",
    "draw_loss_curves",
    "figure_png",
    "loss_curves",
    "plain_axes",
    "read_loss_log",
    "wrapped",
]

_DASHES = ("-", "--", "-.", ":")  # beside the colour, for prints in grey
_GIB = 2**30
WIDTH = 5.0  # inches: text stays legible on a phone
TEXT_SIZE = 9  # points
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B")
_DPI = 200


def loss_curves(
    logs: Mapping[str, Mapping[str, np.ndarray]], column: str = "loss", title: str = "Training loss"
) -> Figure:
    """Draw one curve per run over its iterations (epochs, where a log has no iterations).

    Args:
        logs: logs as `read_loss_log` returns them, by the name of the run.
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
    figure = blank_figure(height=2.8 + 0.24 * math.ceil(len(logs) / 2))
    axes = figure.add_subplot()
    for number, (name, log) in enumerate(logs.items()):
        known = ~np.isnan(log[column])
        (line,) = axes.plot(log[unit][known], log[column][known], linewidth=1.6, marker="o", markersize=3)
        line.set(
            color=COLOURS[number % len(COLOURS)], linestyle=_DASHES[number % len(_DASHES)], label=wrapped(name, 28)
        )
    axes.set_xlabel(unit, fontsize=TEXT_SIZE)
    axes.set_ylabel(math_free(column), fontsize=TEXT_SIZE)
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(axis="x", integer=True)
    axes.set_title(math_free(title), fontsize=TEXT_SIZE)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    plain_axes(axes)
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
        axes.set_xticks(range(len(scores)), list(map(wrapped, scores)), fontsize=TEXT_SIZE)
        axes.set_xlim(-0.5, len(scores) - 0.3)
        axes.set_title(math_free(name), fontsize=TEXT_SIZE)
        plain_axes(axes)
    panels[0].set_ylabel("Dice", fontsize=TEXT_SIZE)
    figure.suptitle(math_free(title), fontsize=TEXT_SIZE)
    return figure


def draw_loss_curves(
    logs: Mapping[str, str | os.PathLike], path: str | os.PathLike, column: str = "loss", title: str = "Training loss"
) -> Path:
    """Draw the curve of each run over its iterations and write the picture.

    Args:
        logs: the ``losses.jsonl`` of each run, by its name in the legend.
        path: the PNG file; its folder is made if missing, and an older file is replaced.
        column: of the logs; ``"validation.loss"`` is the validation loss of a self-supervised run.
        title: says what is seen.

    Returns:
        The path.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if a log lacks the column or is damaged, or there is none.

    Example:
        >>> draw_loss_curves({"TPP": "tpp/losses.jsonl", "random": "random/losses.jsonl"}, "c.png")  # doctest: +SKIP
    """
    if not logs:
        raise ValueError("logs is empty: expected the losses.jsonl of at least one run, by its name")
    figure = loss_curves({name: read_loss_log(file) for name, file in logs.items()}, column, title)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_bytes(figure_png(figure))
    return path


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


def blank_figure(height: float) -> Figure:
    """Start a figure of the common width.

    Args:
        height: in inches.

    Returns:
        A figure without axes.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures are drawn by matplotlib: pip install "monai_essa[report]"') from error
    return Figure(figsize=(WIDTH, height), layout="constrained")


def figure_png(figure: Figure) -> bytes:
    """Render a figure.

    Args:
        figure: any matplotlib figure.

    Returns:
        The bytes of a PNG file.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    return buffer.getvalue()


def plain_axes(axes: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """Take away what does not inform from axes, and draw a faint grid.

    Args:
        axes: to change.
        grid: the axis whose values have lines.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis=grid, alpha=0.3, linewidth=0.6)


def wrapped(text: str, width: int = 12) -> str:
    """Break a name into lines, for an axis or a legend, and escape what matplotlib would read as mathematics.

    Args:
        text: the name.
        width: of a line in characters.

    Example:
        >>> wrapped("SSA, then PEFT", 9)
        'SSA, then\\nPEFT'
    """
    # Escaped once it is broken, since a break within an escape would undo it.
    return "\n".join(map(math_free, textwrap.wrap(text, width)))


def read_loss_log(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a log with columns such as ``epoch``, ``iteration``, ``loss``, its parts and ``lr``.

    Args:
        path: a ``.jsonl`` file with one object per line, or a ``.csv`` file with a header.

    Returns:
        One float64 array per column, all of one length; NaN where a row lacks the value. The entry ``name`` of a
        nested object ``validation`` becomes the column ``validation.name``.

    Raises:
        ValueError: if the file has another suffix or no row, a value is not a number, or a JSON line is damaged.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "losses.csv"
        >>> _ = file.write_text("iteration,loss\\n1,0.9\\n2,0.7\\n")
        >>> read_loss_log(file)["loss"]
        array([0.9, 0.7])
    """
    path = Path(path)
    rows = [dict(_flat(row)) for row in _read_rows(path)]
    if not rows:
        raise ValueError(f"{path} holds no row; expected one per epoch or step, with the columns iteration and loss")
    columns = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([_number(row.get(name), name, path) for row in rows]) for name in columns}


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


def _parts(cost: Mapping[str, int]) -> tuple[float, float, float]:
    weights, learning = cost["weight_bytes"], cost["gradient_bytes"] + cost["optimizer_bytes"]
    # Gradients appear while activations go, so the parts together may be more than the peak.
    rest = max(0, cost["peak_bytes"] - weights - learning)
    return weights / _GIB, (cost["peak_bytes"] - weights - rest) / _GIB, rest / _GIB


def _read_rows(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} has the suffix {path.suffix!r}; a loss log is a .csv or a .jsonl file")
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has a line that is not JSON: {error}") from error
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{path} has a line that is not a JSON object: {row!r}")
    return rows


def _flat(row: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _number(value: object, name: str, path: Path) -> float:
    if value is None or value == "":
        return float("nan")
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{path}: {name} is {value!r}, expected a number")
    try:
        return float(value)
    except ValueError as error:
        raise ValueError(f"{path}: {name} is {value!r}, expected a number") from error
