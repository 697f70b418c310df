# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from monai_essa.report.tables import ResultTable, format_table


def test_text_stands_left_and_numbers_right() -> None:
    text = format_table(["method", "Dice", "adapter"], [["SSA", "0.81", "91.0 kB"], ["without SSA", "0.7", "-"]])

    assert text.split("\n") == [
        "method       Dice  adapter",
        "-----------  ----  -------",
        "SSA          0.81  91.0 kB",
        "without SSA   0.7        -",
    ]


def test_a_column_without_any_number_is_text() -> None:
    assert format_table(["a", "notes"], [["1", "-"]]).split("\n")[-1] == "1  -"


def test_no_line_ends_in_spaces() -> None:
    lines = format_table(["n", "note"], [["1", "long note"], ["2", ""]]).split("\n")

    assert [line for line in lines if line != line.rstrip()] == []


def test_headers_alone_make_a_table() -> None:
    assert format_table(["method", "Dice"], []) == "method  Dice\n------  ----"


@pytest.mark.parametrize("make", [format_table, lambda headers, rows: ResultTable("title", headers, rows)])
def test_a_short_row_is_refused_with_its_number(make: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"row 2 has 1 cells, expected 2.*\['SSA'\]"):
        make(["method", "Dice"], [["APLA", "0.8"], ["SSA"]])


def test_a_cell_steers_no_terminal(odd_name: str) -> None:
    lines = format_table([odd_name, "n"], [[odd_name, "1"]]).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
