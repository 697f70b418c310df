# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Bars add up to the peak, whatever the parts are."""

from __future__ import annotations

import pytest

from monai_essa.report.charts import cost_bars, figure_png

GIB = 2**30
BIG = {"weight_bytes": GIB, "gradient_bytes": GIB, "optimizer_bytes": 2 * GIB, "peak_bytes": 10 * GIB}
STEP = {"weight_bytes": GIB, "gradient_bytes": GIB, "optimizer_bytes": 2 * GIB, "peak_bytes": 3 * GIB}


def widths(figure, name):
    axes = figure.axes[0]
    position = [label.get_text() for label in axes.get_yticklabels()].index(name)
    return [bars[position].get_width() for bars in axes.containers]


def test_each_bar_is_as_long_as_its_peak():
    figure = cost_bars({"full": BIG, "small": STEP})
    assert widths(figure, "full") == [1, 3, 6]
    assert sum(widths(figure, "small")) == 3
    assert [text.get_text() for text in figure.axes[0].texts] == ["3.00 (30%)", "10.00 (100%)"]
    assert figure_png(figure).startswith(b"\x89PNG")


def test_no_cost_is_refused():
    with pytest.raises(ValueError, match="costs is empty"):
        cost_bars({})


def test_a_name_is_drawn_as_it_is(odd_name):
    figure_png(cost_bars({odd_name: BIG}, odd_name))
