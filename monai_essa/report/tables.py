# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tables for the terminal and the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from monai_essa.outside import printable

__all__ = ["ResultTable", "format_table"]

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


def _is_numeric(cells: Sequence[str]) -> bool:
    """Say whether cells are numbers, perhaps with a unit or an interval; "-" and "" stand for a missing one."""
    return any(map(_NUMBER.match, cells)) and all(cell in ("", "-") or _NUMBER.match(cell) for cell in cells)


def _check_rows(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for number, row in enumerate(rows, start=1):
        if len(row) != len(headers):
            raise ValueError(f"row {number} has {len(row)} cells, expected {len(headers)}, one per header: {list(row)}")
