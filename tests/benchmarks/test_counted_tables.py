# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the tables of memory and operations."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contenders import STOCK
from benchmarks.scale import quick_scale
from benchmarks.tables import cost_tables, growth_table, meta_inputs, target_table
from monai_essa.cost.meter import StepCost

STOCK_COST = StepCost(4_000_000, 0, 1, 2**21, 2**20, 2**21, 100 * 2**20, 4 * 10**9, 6 * 10**9)
SMALL_COST = replace(STOCK_COST, trainable=500_000, peak_bytes=25 * 2**20, backward_flops=4 * 10**9)


def test_a_row_holds_sizes_in_their_units_and_ratios_to_stock():
    lines = cost_tables({"work": {STOCK.name: STOCK_COST, "ours": SMALL_COST}}, {"work": 3})
    assert lines[0] == "### work, batch 3"
    assert "| MONAI, full | 4.00 | 2 | 3.0 | 100 | 1.000 | 10.0 | 1.000 |" in lines
    assert "| ours | 0.50 | 2 | 3.0 | 25 | 0.250 | 8.0 | 0.800 |" in lines


def test_targets_are_met_or_missed_by_how_much():
    costs = {STOCK.name: STOCK_COST, "ours, APLA, small": SMALL_COST}
    line = target_table({"MAE ViT-B/16, decoder trained": costs, "SwinUNETR-48, decoder frozen": costs})
    assert "| 0.250 | 0.35 | met | 0.800 | 0.95 | met |" in line[2]
    assert "| 0.250 | 0.36 | met | 0.800 | 0.65 | missed by 0.150 |" in line[3]


def test_works_without_a_target_need_no_table():
    assert target_table({"another": {STOCK.name: STOCK_COST}}) == []


def test_inputs_take_the_side_and_no_memory():
    swin = quick_scale().works[1]
    image, label = meta_inputs(swin, 160)
    assert (image.shape, label.shape) == ((1, 1, 160, 160, 160), (1, 160, 160, 160))
    assert image.device.type == "meta" and not label.is_floating_point()


def test_peaks_grow_with_the_side():
    rows = [line.split(" | ") for line in growth_table(quick_scale().growths[0])[4:-1]]
    assert [row[0] for row in rows] == ["| 64", "| 96"]
    assert float(rows[1][1]) > 2 * float(rows[0][1])
