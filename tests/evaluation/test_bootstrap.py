# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Tests for the bootstrap: against the formula of a mean, and by counting what is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monai_essa.evaluation.bootstrap import bootstrap_interval
from monai_essa.evaluation.metrics import area_under_roc


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


def test_a_patient_is_drawn_and_left_out_with_all_items() -> None:
    patients = np.repeat(np.arange(60), 3)
    seen = []

    def mean_patient(drawn: np.ndarray, also_drawn: np.ndarray) -> float:
        seen.append(bool((np.unique(drawn, return_counts=True)[1] % 3).any()) or not np.array_equal(drawn, also_drawn))
        return float(drawn.mean())

    interval = bootstrap_interval(mean_patient, patients, patients, groups=patients.tolist(), resamples=20)
    assert interval.low < 29.5 < interval.high
    assert len(seen) == 1 + 60 + 20 * (20 + 1) and not any(seen)


@pytest.mark.parametrize(
    ("intervals", "draws", "share"),
    [
        (60, 60, (0.9, 0.98)),
        # 200 intervals of 100 draws, 21 means each
        pytest.param(200, 100, (0.92, 0.98), marks=[pytest.mark.slow, pytest.mark.full]),
    ],
)
def test_patients_with_unequal_numbers_of_items_are_covered(intervals, draws, share) -> None:
    random = np.random.default_rng(0)
    covered = []
    for _ in range(intervals):
        sizes = random.geometric(0.25, size=50)
        patients = np.repeat(np.arange(50), sizes)
        # The more items a patient has, the higher their values: the mean over items is 0 by construction.
        effect = 0.5 * (np.log(sizes) - 1.7126) + random.normal(size=50)
        values = effect[patients] + random.normal(size=len(patients))
        interval = bootstrap_interval(mean, values, groups=patients.tolist(), resamples=draws)
        covered.append(interval.low <= 0 <= interval.high)
    assert share[0] <= np.mean(covered) <= share[1]


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


def scores(positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and classes of 60 images; a few are positive, ranked a little better than by chance."""
    random = np.random.default_rng(0)
    truth = np.arange(60) < positives
    score = random.normal(size=60) + 0.5 * truth
    return np.stack([-score, score], 1), np.eye(2, dtype=int)[truth.astype(int)]


def test_one_positive_patient_gives_no_interval() -> None:
    interval = bootstrap_interval(area_under_roc, *scores(1), resamples=50)
    assert 0 < interval.value <= 1 and math.isnan(interval.low) and math.isnan(interval.high)
    assert str(interval).endswith("(no interval: the metric is undefined without one of the patients)")


def test_undefined_draws_are_counted_and_said() -> None:
    interval = bootstrap_interval(area_under_roc, *scores(4), resamples=300, bounds=(0, 1))
    assert 0 < interval.undefined < 30 and interval.draws == 300
    assert str(interval).endswith(f"; undefined on {interval.undefined} of 300 draws)")
    assert interval.low < interval.value < interval.high <= 1


def test_too_many_undefined_draws_give_no_interval() -> None:
    interval = bootstrap_interval(area_under_roc, *scores(2), resamples=200)
    assert interval.undefined > 20 and math.isnan(interval.low)
    assert "no interval: undefined on" in str(interval)


def test_patients_who_all_agree_give_no_interval() -> None:
    assert "no interval: all patients agree" in str(bootstrap_interval(mean, np.full(60, 7.0)))


def test_a_metric_without_a_value_is_said() -> None:
    assert (
        str(bootstrap_interval(lambda values: math.nan, np.zeros(60))) == "nan (no interval: the metric is undefined)"
    )


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
