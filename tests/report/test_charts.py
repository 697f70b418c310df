# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Charts: what is drawn is read back from the figure."""

from __future__ import annotations

import numpy as np
import pytest

from monai_essa.report.charts import dice_by_case, figure_png, loss_curves

pytest.importorskip("matplotlib", reason="figures need the extra [report]")

SCORES = {"no SSA": {"gray": [0.8, 0.6], "white": [0.5, 0.7]}, "SSA": {"gray": [0.9, 0.7], "white": [0.6, 0.7]}}


def _log(**columns: list[float]) -> dict[str, np.ndarray]:
    return {name: np.array(values, dtype=float) for name, values in columns.items()}


def test_each_run_is_one_labelled_line_over_iterations() -> None:
    figure = loss_curves(
        {
            "A": _log(iteration=[10, 20], epoch=[1, 2], loss=[0.9, 0.7]),
            "B": _log(iteration=[5, 10], epoch=[1, 2], loss=[0.8, 0.6]),
        }
    )

    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["A", "B"]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[10, 0.9], [20, 0.7]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iteration", "loss")
    assert figure_png(figure).startswith(b"\x89PNG")


def test_lines_differ_in_dashes_as_well_as_in_colour() -> None:
    log = _log(iteration=[1, 2], loss=[0.9, 0.7])
    first, second = loss_curves({"A": log, "B": log}).axes[0].lines

    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_color() != second.get_color()


def test_one_log_without_iterations_puts_all_over_epochs() -> None:
    logs = {"A": _log(iteration=[10, 20], epoch=[1, 2], loss=[0.9, 0.7]), "B": _log(epoch=[1, 2], loss=[0.8, 0.6])}
    (axes,) = loss_curves(logs).axes

    assert axes.get_xlabel() == "epoch"
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1, 2])


def test_epochs_without_the_value_are_left_out() -> None:
    log = _log(epoch=[1, 2, 3], loss=[0.9, np.nan, 0.7])

    np.testing.assert_array_equal(loss_curves({"A": log}).axes[0].lines[0].get_xdata(), [1, 3])


def test_a_log_without_the_column_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"the log of 'B' has the columns \['epoch', 'loss'\], expected mae"):
        loss_curves({"B": _log(epoch=[1], loss=[0.5])}, column="mae")


def test_each_class_is_a_panel_with_a_dot_per_case_and_the_mean_in_figures() -> None:
    gray, white = dice_by_case(SCORES).axes

    assert (gray.get_title(), white.get_title()) == ("gray", "white")
    dots = [collection.get_offsets() for collection in gray.collections if len(collection.get_offsets()) == 2]
    np.testing.assert_allclose(np.concatenate(dots), [[0, 0.8], [0, 0.6], [1, 0.9], [1, 0.7]])
    assert [text.get_text() for text in gray.texts] == ["0.700", "0.800"]
    assert [text.get_text() for text in gray.get_xticklabels()] == ["no SSA", "SSA"]


def test_a_class_that_no_case_holds_has_no_mean() -> None:
    (axes,) = dice_by_case({"SSA": {"gray": [np.nan, np.nan]}}).axes

    assert [text.get_text() for text in axes.texts] == []


def test_no_method_is_refused() -> None:
    with pytest.raises(ValueError, match="scores is empty"):
        dice_by_case({})


def test_a_name_is_drawn_as_it_is(odd_name: str) -> None:
    log = _log(epoch=[1, 2], loss=[0.9, 0.7])
    figure_png(loss_curves({odd_name: log | {odd_name: log["loss"]}}, odd_name, odd_name))
    figure_png(dice_by_case({odd_name: {odd_name: [0.5, 0.6]}}, odd_name))


def test_a_dollar_is_a_dollar() -> None:
    title = dice_by_case({"SSA": {"$x$": [0.5]}}).axes[0].title
    assert (title.get_text(), title._preprocess_math(title.get_text())) == (r"\$x\$", ("$x$", False))
