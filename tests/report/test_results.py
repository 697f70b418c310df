# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The comparison of methods: values against means worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

from monai_essa.report.tables import MethodResult, results_table

APLA = MethodResult("APLA", {"gray": [0.8, 0.6], "white": [0.5, 0.9]}, trainable=1500, total=10000, seconds=12.345)


def test_a_row_holds_means_parameters_time_and_size() -> None:
    table = results_table([dataclasses.replace(APLA, adapter_bytes=6_400)])

    assert table.headers == ["method", "Dice, gray", "Dice, white", "trained parameters", "seconds", "adapter"]
    assert table.rows == [["APLA", "0.700", "0.700", "1,500 (15.0%)", "12.3", "6.4 kB"]]


def test_intervals_stand_behind_the_mean_and_are_explained() -> None:
    table = results_table([dataclasses.replace(APLA, intervals={"gray": (0.61, 0.79)})])

    assert table.rows[0][1:3] == ["0.700 [0.610, 0.790]", "0.700"]
    assert "95 % bootstrap interval" in table.note


def test_without_intervals_the_note_promises_none() -> None:
    assert results_table([APLA]).note == "Dice: mean over 2 test cases."


def test_cases_without_the_class_are_left_out_of_the_mean() -> None:
    absent = {"gray": [0.8, math.nan], "white": [math.nan, math.nan]}

    assert results_table([dataclasses.replace(APLA, dice=absent)]).rows[0][1:3] == ["0.800", "-"]


def test_the_order_given_is_kept_whoever_is_best() -> None:
    worse = dataclasses.replace(APLA, name="full", dice={"gray": [0.1, 0.1], "white": [0.1, 0.1]})

    assert [row[0] for row in results_table([worse, APLA]).rows] == ["full", "APLA"]


@pytest.mark.parametrize("dice", [{"gray": [0.5, 0.5]}, {"gray": [0.5], "white": [0.5]}])
def test_methods_that_cannot_be_compared_are_refused(dice: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="'full' has Dice of"):
        results_table([APLA, dataclasses.replace(APLA, name="full", dice=dice)])


def test_no_result_is_refused() -> None:
    with pytest.raises(ValueError, match="results is empty"):
        results_table([])
