# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Tests for which metric is computed of what."""

from __future__ import annotations

import numpy as np
import pytest

from monai_essa.evaluation.cases.classification import classification_intervals

RNG = np.random.default_rng(0)
TWO = RNG.dirichlet(np.ones(2), 60)
TRUTH = np.eye(2, dtype=int)[RNG.integers(0, 2, 60)]


def values(*arguments: object) -> dict[str, float]:
    return {name: each.value for name, each in classification_intervals(*arguments, resamples=2).items()}  # type: ignore[arg-type]


def test_of_two_classes_f1_is_that_of_the_second() -> None:
    predicted, truth = TWO[:, 1] > 0.5, TRUTH[:, 1] == 1
    both = np.sum(predicted & truth)
    scores = values(TWO, TRUTH)
    assert scores["f1"] == pytest.approx(2 * both / (predicted.sum() + truth.sum()), abs=1e-6)
    accuracies = [np.mean(predicted[truth]), np.mean(~predicted[~truth])]
    assert scores["balanced_accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-6)
    assert scores["brier"] == pytest.approx(np.mean((TWO[:, 1] - TRUTH[:, 1]) ** 2))
    assert len(scores) == 6


def test_of_several_classes_an_image_each_is_a_decision_of_its_own() -> None:
    probabilities, truth = RNG.uniform(size=(60, 3)), RNG.integers(0, 2, (60, 3))
    scores = values(probabilities, truth, True)
    assert "quadratic_weighted_kappa" not in scores
    predicted, there = probabilities > 0.5, truth == 1
    rates = [(np.mean(predicted[there[:, c], c]) + np.mean(~predicted[~there[:, c], c])) / 2 for c in range(3)]
    assert scores["balanced_accuracy"] == pytest.approx(np.mean(rates), abs=1e-6)
    f1 = [2 * np.sum(predicted[:, c] & there[:, c]) / (predicted[:, c].sum() + there[:, c].sum()) for c in range(3)]
    assert scores["f1"] == pytest.approx(np.mean(f1), abs=1e-6)


def test_a_perfect_and_certain_classifier_has_perfect_scores() -> None:
    scores = values(TRUTH.astype(float), TRUTH)
    assert scores.pop("expected_calibration_error") == scores.pop("brier") == 0
    assert set(scores.values()) == {1.0}


def test_the_interval_holds_the_value() -> None:
    for interval in classification_intervals(TWO + 0.3 * TRUTH, TRUTH, resamples=200).values():
        assert interval.low <= interval.value <= interval.high
        assert interval.low < interval.high


def test_intervals_stay_within_the_range_of_their_metric() -> None:
    sure = 0.1 * TWO + 0.9 * np.eye(2)[np.where(np.arange(60) % 9, TRUTH[:, 1], 1 - TRUTH[:, 1])]
    for name, interval in classification_intervals(sure, TRUTH, resamples=50).items():
        assert (-1 if "kappa" in name else 0) <= interval.low <= interval.high <= 1, name
