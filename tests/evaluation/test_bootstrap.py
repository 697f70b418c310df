# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Tests for the bootstrap: against the formula of a mean, and by counting what is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monai_essa.evaluation.bootstrap import bootstrap_interval


def mean(values: np.ndarray) -> float:
    return float(values.mean())


def test_the_interval_of_a_mean_is_its_standard_error_to_both_sides() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    interval = bootstrap_interval(mean, values, resamples=4000)
    error = 1.96 * values.std() / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_a_narrower_level_lies_within_a_wider_one() -> None:
    values = np.random.default_rng(0).normal(size=100)
    half, most = (bootstrap_interval(mean, values, level=level) for level in (0.5, 0.99))
    assert most.low < half.low < half.value < half.high < most.high


def test_a_patient_is_drawn_with_all_items() -> None:
    patients = np.repeat(np.arange(60), 3)
    seen = []

    def sizes(drawn: np.ndarray, weights: np.ndarray) -> float:
        seen.append((np.unique(drawn, return_counts=True)[1] % 3).any() or len(drawn) != len(weights))
        return float(len(drawn))

    assert bootstrap_interval(sizes, patients, patients, groups=patients.tolist(), resamples=20).low == 180
    assert len(seen) == 21 and not any(seen)


def test_copies_of_an_item_make_the_interval_no_narrower() -> None:
    values = np.random.default_rng(0).normal(size=80)
    once = bootstrap_interval(mean, values)
    copies = bootstrap_interval(mean, np.repeat(values, 4), groups=np.repeat(np.arange(80), 4).tolist())
    naive = bootstrap_interval(mean, np.repeat(values, 4))
    assert copies.high - copies.low == pytest.approx(once.high - once.low)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_it_repeats_by_its_seed() -> None:
    values = np.random.default_rng(0).normal(size=60)
    assert bootstrap_interval(mean, values, seed=1) == bootstrap_interval(mean, values, seed=1)
    assert bootstrap_interval(mean, values, seed=1) != bootstrap_interval(mean, values, seed=2)


def test_draws_without_a_value_are_left_out() -> None:
    rare = np.zeros(60)
    rare[0] = 1
    interval = bootstrap_interval(lambda values: 7.0 if values.any() else float("nan"), rare)
    assert (interval.low, interval.high) == (7.0, 7.0)
    never = bootstrap_interval(lambda values: float("nan"), rare)
    assert math.isnan(never.low) and math.isnan(never.high)


def test_few_patients_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="^49 patients or items: below 50"):
        bootstrap_interval(mean, np.arange(98.0), groups=[number // 2 for number in range(98)], resamples=2)


@pytest.mark.parametrize(
    ("arrays", "options", "expected"),
    [
        ([np.zeros(3), np.zeros(4)], {}, r"of one length above 0, got lengths \[3, 4\]"),
        ([np.zeros(0)], {}, r"of one length above 0, got lengths \[0\]"),
        ([np.zeros(3)], {"groups": ["a"]}, r"got lengths \[1, 3\]"),
        ([np.zeros(3)], {"level": 95}, r"level must be within \(0, 1\), got 95"),
    ],
)
def test_what_makes_no_sense_is_refused(arrays: list[np.ndarray], options: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        bootstrap_interval(mean, *arrays, **options)
