# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tables for the terminal and the report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from monai_essa.outside import printable

__all__ = ["MethodResult", "ResultTable", "format_table", "results_table"]

_NUMBER = re.compile(r"[-+]?\d")


@dataclass(frozen=True)
class ResultTable:
    """A table whose cells are finished text.

    Args:
        title: says what is seen.
        headers: column names.
        rows: one sequence of cells per row, as long as ``headers``.
        note: what a reader must know to read the cells, below the table.

    Raises:
        ValueError: if a row has another number of cells than ``headers``.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __post_init__(self) -> None:
        _check_rows(self.headers, self.rows)


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in aligned columns: columns of numbers to the right, text to the left.

    Args:
        headers: column names.
        rows: one sequence of cells per row, as long as ``headers``.

    Returns:
        Lines joined by newlines, without a newline at the end: header, rule, rows. Characters of a cell that do not
        print, such as terminal codes, are written as escapes.

    Raises:
        ValueError: if a row has another number of cells than ``headers``.

    Example:
        >>> print(format_table(["method", "Dice"], [["SSA", "0.81"], ["no SSA", "0.793"]]))
        method   Dice
        ------  -----
        SSA      0.81
        no SSA  0.793
    """
    _check_rows(headers, rows)
    headers, rows = list(map(printable, headers)), [list(map(printable, row)) for row in rows]
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [_is_numeric(column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (f"{c:>{w}}" if right else f"{c:<{w}}" for c, w, right in zip(cells, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), line(["-" * width for width in widths]), *map(line, rows)])


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
    """Set the methods side by side, in the given order, without leaving out a row or marking a winner.

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


def _is_numeric(cells: Sequence[str]) -> bool:
    """Say whether cells are numbers, perhaps with a unit or an interval; "-" and "" stand for a missing one."""
    return any(map(_NUMBER.match, cells)) and all(cell in ("", "-") or _NUMBER.match(cell) for cell in cells)


def _check_rows(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for number, row in enumerate(rows, start=1):
        if len(row) != len(headers):
            raise ValueError(f"row {number} has {len(row)} cells, expected {len(headers)}, one per header: {list(row)}")


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
    values = [value for value in result.dice[name] if not math.isnan(value)]
    if not values:
        return "-"
    interval = result.intervals.get(name)
    return f"{math.fsum(values) / len(values):.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
