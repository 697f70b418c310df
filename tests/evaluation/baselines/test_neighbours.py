# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The k-NN probe agrees with loops, never asks a patient about themselves, and compares on the same rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monai_essa.evaluation.baselines.neighbours import compare_neighbours, neighbour_hits

RNG = np.random.default_rng(0)
FEATURES, CLASSES = RNG.normal(size=(30, 5)), RNG.integers(0, 3, 30)
PATIENTS = [number // 2 for number in range(30)]


def test_votes_are_those_of_the_nearest_rows_of_other_patients() -> None:
    expected = []
    for row, own in enumerate(PATIENTS):
        cosines = {
            other: float(FEATURES[row] @ FEATURES[other]) / (math.hypot(*FEATURES[row]) * math.hypot(*FEATURES[other]))
            for other in range(30)
            if PATIENTS[other] != own
        }
        votes = [0.0, 0.0, 0.0]
        for other in sorted(cosines, key=lambda each: -cosines[each])[:7]:
            votes[CLASSES[other]] += math.exp(cosines[other] / 0.07)
        expected.append(float(votes.index(max(votes)) == CLASSES[row]))
    assert neighbour_hits(FEATURES, CLASSES, PATIENTS, neighbours=7).tolist() == expected


def test_a_row_of_the_same_patient_has_no_vote_even_where_all_rows_are_neighbours() -> None:
    features, classes = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([0, 0, 1, 1])
    assert neighbour_hits(features, classes, ["a", "a", "b", "b"]).tolist() == [0.0] * 4


@pytest.mark.filterwarnings("ignore:30 patients or items")
def test_a_difference_is_paired_and_its_recall_counts_each_class_alike() -> None:
    classes = np.array([0] * 24 + [1] * 6)
    same = compare_neighbours(FEATURES, FEATURES, classes, range(30), resamples=50)
    hits = neighbour_hits(FEATURES, classes, range(30))
    assert same.before.value == pytest.approx((hits[:24].mean() + hits[24:].mean()) / 2)
    assert same.difference.value == 0 and (same.rows, same.patients) == (30, 30)
    assert str(same).startswith("k-NN with labels, mean recall over the classes: before 0.")


@pytest.mark.parametrize(
    ("classes", "patients", "message"),
    [
        (np.zeros(30), range(30), "needs two classes and two patients or more, got 1 and 30"),
        (CLASSES, [1] * 30, "got 3 and 1"),
        (CLASSES[:9], range(30), "expected a class and a patient a row, got 9, 30, 30"),
    ],
)
def test_what_cannot_be_asked_is_refused(classes: np.ndarray, patients: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighbour_hits(FEATURES, classes, patients)
