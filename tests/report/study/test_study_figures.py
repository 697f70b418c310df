# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The figures of a study against what they are made of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid

from monai_essa.evaluation.metrics import area_under_roc
from monai_essa.report.charts import figure_png
from monai_essa.report.study.figures import (
    ArmPoints,
    arms_figure,
    cost_figure,
    efficiency_figure,
    reliability_figure,
    roc_figure,
)

NAN = float("nan")


def probabilities(classes: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.eye(classes, dtype=int)[np.arange(count) % classes]
    return np.round(0.6 * rng.dirichlet([1] * classes, count) + 0.4 * truth, 2), truth


def test_the_roc_has_the_area_that_is_stated() -> None:
    found, truth = probabilities(2)
    curve = roc_figure(found, truth, ["normal", "ill"]).axes[0].lines[1]
    assert trapezoid(curve.get_ydata(), curve.get_xdata()) == pytest.approx(area_under_roc(found, truth))


def test_a_class_without_both_kinds_of_cases_has_no_curve() -> None:
    found, truth = probabilities(3)
    truth[:, 2] = 0
    assert len(roc_figure(found, truth, ["a", "b", "c"]).axes[0].lines) == 3  # chance, a, b


def test_reliability_counts_every_image_once() -> None:
    found, truth = probabilities(3)
    below = reliability_figure(found, truth).axes[1]
    assert sum(bar.get_height() for bar in below.patches) == len(found)


def test_arms_without_an_interval_or_a_mean_are_drawn(odd_name: str) -> None:
    arms = [ArmPoints(odd_name, [0.1, 0.2], 0.15, 0.1, 0.2), ArmPoints("two", [0.3], 0.3), ArmPoints("none", [], NAN)]
    figure = arms_figure(arms, "mean Dice", higher_is_better=False)
    assert figure_png(figure).startswith(b"\x89PNG")
    assert figure.axes[0].get_xlabel() == "mean Dice (lower is better)"
    assert [label.get_position()[1] for label in figure.axes[0].get_yticklabels()] == [0, 1, 2]


def test_odd_names_are_drawn_in_every_figure(odd_name: str) -> None:
    found, truth = probabilities(3)
    figures = [
        cost_figure({odd_name: (1.0, 0.8)}, odd_name),
        efficiency_figure({odd_name: [(3, 0.5, 0.4, 0.6), (10, 0.6, NAN, NAN)]}, odd_name),
        roc_figure(found, truth, [odd_name, "b", "c"]),
    ]
    assert all(figure_png(figure).startswith(b"\x89PNG") for figure in figures)


@pytest.mark.parametrize("draw", [lambda: arms_figure([], "Dice"), lambda: cost_figure({}, "Dice")])
def test_nothing_to_draw_is_refused(draw) -> None:
    with pytest.raises(ValueError, match="is empty"):
        draw()
