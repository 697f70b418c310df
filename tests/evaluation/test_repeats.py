# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The interval of a mean over patients and repeats covers the truth, follows its formula and says what decides."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from monai_essa.evaluation.repeats import mean_interval, patients_to_decide, spread, student_half_width

REPEATS = FOLDS = 5
REPETITIONS = 2000


@dataclass(frozen=True)
class Effects:
    """Standard deviations of what makes the differences vary."""

    patient: float
    repeat: float
    fold: float
    rest: float


SITES = {
    "patients": Effects(1.0, 0.0, 0.0, 0.2),
    "repeats": Effects(0.2, 1.0, 0.0, 0.2),
    "folds": Effects(0.5, 0.3, 0.7, 0.2),
    "all": Effects(1.0, 0.3, 0.3, 0.5),
}


def differences(effects: Effects, patients: int, repetitions: int, truth: float = 0.0) -> np.ndarray:
    """Draw (repetitions, R, N): each repeat parts the patients into folds anew, whose trainings have effects."""
    rng = np.random.default_rng(patients)
    shape = (repetitions, REPEATS, patients)
    folds = rng.permuted(np.broadcast_to(np.arange(patients) % FOLDS, shape), axis=-1)
    of_folds = np.take_along_axis(rng.normal(size=(repetitions, REPEATS, FOLDS)), folds, axis=-1)
    values = truth + effects.patient * rng.normal(size=(repetitions, 1, patients))
    values = values + effects.repeat * rng.normal(size=(repetitions, REPEATS, 1))
    noise: np.ndarray = effects.fold * of_folds + effects.rest * rng.normal(size=shape)
    return values + noise


@pytest.mark.parametrize("patients", [10, 30, 60])
@pytest.mark.parametrize("site", SITES)
def test_the_interval_covers_the_truth(site: str, patients: int) -> None:
    mean, half = mean_interval(differences(SITES[site], patients, REPETITIONS, truth=0.3))
    covered = np.abs(mean - 0.3) <= half
    assert 0.92 <= covered.mean() <= 0.98


@pytest.mark.parametrize("patients", [10, 30, 60])
@pytest.mark.parametrize("site", SITES)
def test_no_difference_is_rarely_called_one(site: str, patients: int) -> None:
    mean, half = mean_interval(differences(SITES[site], patients, REPETITIONS))
    assert (np.abs(mean) > half).mean() <= 0.065


def test_where_repeats_and_patients_differ_by_noise_alone_the_interval_is_wide_not_narrow() -> None:
    mean, half = mean_interval(differences(Effects(0, 0, 0, 1.0), 30, 1000))
    assert (np.abs(mean) <= half).mean() >= 0.95


def test_patients_alone_as_repeats_would_be_believed_too_much() -> None:
    """What the simulation protects from: an interval over patients that takes the repeats as given."""
    values = differences(SITES["folds"], 30, 500)
    naive = mean_interval(values.mean(axis=1, keepdims=True))
    assert (np.abs(naive[0]) > naive[1]).mean() > 0.15


def test_the_interval_is_the_formula() -> None:
    """The oracle goes through the values one by one, in pure Python and scipy.stats."""
    values = np.random.default_rng(3).normal(size=(4, 7))
    by_patient = [statistics.fmean(values[r][i] for r in range(4)) for i in range(7)]
    by_repeat = [statistics.fmean(values[r][i] for i in range(7)) for r in range(4)]
    first, second = statistics.variance(by_patient) / 7, statistics.variance(by_repeat) / 4
    freedom = (first + second) ** 2 / (first**2 / 6 + second**2 / 3)
    expected = stats.t.ppf(0.995, freedom) * math.sqrt(first + second)
    mean, half = mean_interval(values, level=0.99)
    assert float(mean) == pytest.approx(statistics.fmean(by_patient), abs=1e-12)
    assert float(half) == pytest.approx(expected, rel=1e-9)


def test_a_single_repeat_has_the_interval_of_a_paired_t_test() -> None:
    values = np.random.default_rng(4).normal(size=(1, 9))
    interval = stats.ttest_1samp(values[0], 0).confidence_interval(0.95)
    mean, half = mean_interval(values)
    assert (float(mean - half), float(mean + half)) == pytest.approx((interval.low, interval.high))


def test_patients_that_all_agree_leave_the_degrees_of_the_repeats() -> None:
    by_repeat = np.array([0.1, 0.2, 0.4])
    _, half = mean_interval(np.repeat(by_repeat[:, None], 8, axis=1))
    assert float(half) == pytest.approx(stats.t.ppf(0.975, 2) * math.sqrt(by_repeat.var(ddof=1) / 3))


def test_repeats_that_all_agree_leave_the_degrees_of_the_patients() -> None:
    by_patient = np.array([0.1, 0.2, 0.4, 0.3, 0.9, 0.2])
    _, half = mean_interval(np.repeat(by_patient[None], 3, axis=0))
    assert float(half) == pytest.approx(stats.t.ppf(0.975, 5) * math.sqrt(by_patient.var(ddof=1) / 6))


@pytest.mark.parametrize("value", [0.0, 0.1, 0.8 - 0.7])
def test_values_that_are_all_the_same_have_no_interval(value: float) -> None:
    mean, half = mean_interval(np.full((3, 7), value))
    assert float(mean) == pytest.approx(value) and math.isnan(float(half))


def test_many_arrays_at_once_are_each_for_itself() -> None:
    values = np.random.default_rng(5).normal(size=(2, 3, 4, 6))
    mean, half = mean_interval(values)
    one_mean, one_half = mean_interval(values[1, 2])
    assert (mean[1, 2], half[1, 2]) == (one_mean, one_half)
    assert [part.shape for part in spread(values)] == [(2, 3), (2, 3)]


def test_equal_terms_add_their_degrees_of_freedom() -> None:
    expected = stats.t.ppf(0.975, 12) * math.sqrt(2.0)
    assert float(student_half_width([1.0, 1.0], [6, 6], 0.95)) == pytest.approx(expected)


@pytest.mark.parametrize("repeats", [1, 3, 5])
def test_with_the_patients_that_decide_the_interval_is_narrow_and_with_one_less_it_is_not(repeats: int) -> None:
    values = np.random.default_rng(6).normal(size=(1, 12)) + 0.1 * np.random.default_rng(7).normal(size=(repeats, 12))
    of_patients, of_repeats = map(float, spread(values))
    distance = 0.5 if repeats == 1 else 2 * stats.t.ppf(0.975, repeats - 1) * math.sqrt(of_repeats / repeats)

    def half(patients: int) -> float:
        first, second = of_patients / patients, of_repeats / repeats
        below = first**2 / (patients - 1) + (second**2 / (repeats - 1) if repeats > 1 else 0)
        return float(stats.t.ppf(0.975, (first + second) ** 2 / below) * math.sqrt(first + second))

    needed = patients_to_decide(values, distance)
    assert needed is not None and 12 < needed < 10_000
    assert half(needed) < distance <= half(needed - 1)


def test_no_number_of_patients_narrows_what_the_repeats_spread() -> None:
    values = differences(Effects(0.2, 1.0, 0.0, 0.1), 20, 1)[0]
    limit = stats.t.ppf(0.975, REPEATS - 1) * math.sqrt(float(spread(values)[1]) / REPEATS)
    assert patients_to_decide(values, 0.99 * limit) is None
    assert patients_to_decide(values, 0.0) is None
