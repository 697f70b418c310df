# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Tests for the metrics of a classification, against their formulas written out."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from monai_essa.evaluation.metrics import (
    area_under_roc,
    balanced_accuracy,
    brier_score,
    expected_calibration_error,
    macro_f1,
    quadratic_weighted_kappa,
    reliability_bins,
)

RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 3, 60)
TRUTH = np.eye(3, dtype=int)[CLASSES]
PROBABILITIES = RNG.dirichlet(np.ones(3), 60).round(1) + 0.2 * TRUTH  # rounded, so that there are ties
PREDICTED = PROBABILITIES.argmax(1)
ONE_HOT = np.eye(3, dtype=int)[PREDICTED]


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    shares = []
    for number in range(3):
        scores, truth = PROBABILITIES[:, number], TRUTH[:, number]
        pairs = [(a, b) for a, b in product(scores[truth == 1], scores[truth == 0])]
        shares.append(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]))
    assert area_under_roc(PROBABILITIES, TRUTH) == pytest.approx(np.mean(shares), abs=1e-6)


def test_auc_without_a_class_is_undefined() -> None:
    assert math.isnan(area_under_roc(PROBABILITIES, np.eye(3, dtype=int)[np.zeros(60, int)]))


def test_balanced_accuracy_is_the_mean_recall() -> None:
    recalls = [np.mean(PREDICTED[number == CLASSES] == number) for number in range(3)]
    assert balanced_accuracy(ONE_HOT, TRUTH) == pytest.approx(np.mean(recalls), abs=1e-6)


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    scores = []
    for number in range(3):
        right = np.sum((PREDICTED == number) & (number == CLASSES))
        precision, recall = right / np.sum(PREDICTED == number), right / np.sum(number == CLASSES)
        scores.append(2 * precision * recall / (precision + recall))
    assert macro_f1(ONE_HOT, TRUTH) == pytest.approx(np.mean(scores), abs=1e-6)
    assert macro_f1(ONE_HOT[:, 1:2], TRUTH[:, 1:2]) == pytest.approx(scores[1], abs=1e-6)


def test_kappa_is_one_less_the_ratio_of_squared_distances() -> None:
    observed = np.mean([(a - b) ** 2 for a, b in zip(PREDICTED, CLASSES, strict=True)])
    by_chance = np.mean([(a - b) ** 2 for a, b in product(PREDICTED, CLASSES)])
    assert quadratic_weighted_kappa(PREDICTED, CLASSES, 3) == pytest.approx(1 - observed / by_chance)
    assert quadratic_weighted_kappa(CLASSES, CLASSES, 3) == 1


def test_kappa_of_two_classes_is_cohens() -> None:
    truth, predicted = CLASSES > 0, PREDICTED > 0
    agreed = np.mean(truth == predicted)
    chance = truth.mean() * predicted.mean() + (1 - truth.mean()) * (1 - predicted.mean())
    expected = (agreed - chance) / (1 - chance)
    assert quadratic_weighted_kappa(predicted.astype(int), truth.astype(int), 2) == pytest.approx(expected)


def test_kappa_of_one_class_throughout_is_undefined() -> None:
    assert math.isnan(quadratic_weighted_kappa(np.ones(4, int), np.ones(4, int), 3))


def test_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    confidence, correct = RNG.uniform(0, 1, 500), RNG.integers(0, 2, 500)
    expected = 0.0
    for number in range(1, 11):
        inside = ((number - 1) / 10 < confidence) & (confidence <= number / 10)
        expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(expected)


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not() -> None:
    assert expected_calibration_error(np.ones(5), np.ones(5)) == 0
    assert expected_calibration_error(np.ones(5), np.zeros(5)) == 1
    assert expected_calibration_error(np.zeros(5), np.zeros(5)) == 0


def test_brier_of_two_classes_is_the_squared_error_of_the_second() -> None:
    second = RNG.uniform(size=60)
    truth = RNG.integers(0, 2, 60)
    error = np.mean((second - truth) ** 2)
    assert brier_score(np.stack([1 - second, second], 1), np.eye(2)[truth]) == pytest.approx(error)


def test_the_bins_hold_each_decision_once_and_give_the_calibration_error() -> None:
    confidence, correct = RNG.uniform(0.3, 1, 200), RNG.integers(0, 2, 200)
    bins = reliability_bins(confidence, correct, bins=10)
    assert sum(each["decisions"] for each in bins) == 200
    for each in bins:
        within = (confidence > each["low"]) & (confidence <= each["high"])
        assert each["decisions"] == within.sum()
        assert (each["confidence"], each["accuracy"]) == pytest.approx(
            (confidence[within].mean(), correct[within].mean())
        )
    gaps = [each["decisions"] * abs(each["confidence"] - each["accuracy"]) for each in bins]
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(sum(gaps) / 200)
