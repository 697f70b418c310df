# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The protocol on simulated sites, from partition to word: no difference is rarely called one, and a leak is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import pytest

from monai_essa.evaluation.baselines.ridge import fit_ridge
from monai_essa.evaluation.comparison import Comparison
from monai_essa.evaluation.repeats import ArmScores
from monai_essa.evaluation.verdict import compare_arms
from monai_essa.study.splits import SplitRequest, partition
from monai_essa.study.terms.partition import Fold, Partition, Scan

REPEATS = 5
Draw = Callable[[int, int], np.ndarray]


@cache
def parted(patients: int) -> Partition:
    scans = [Scan(f"i{number:03}", number % 2, f"p{number:03}") for number in range(patients)]
    return partition(scans, SplitRequest(repeats=REPEATS))


def numbers(fold: Fold, side: str) -> list[int]:
    return [int(scan.patient[1:]) for scan in getattr(fold, side)]


def cross_validated(name: str, features: Draw, labels: np.ndarray) -> ArmScores:
    """A procedure whose ridge regression is trained and tested as the partition says; its features are anew by fold."""
    scores = np.full((REPEATS, len(labels)), np.nan)
    for repeat, folds in enumerate(parted(len(labels)).repeats):
        for number, fold in enumerate(folds):
            values = features(repeat, number)
            train, test = numbers(fold, "training"), numbers(fold, "test")
            ridge = fit_ridge(values[train], labels[train, None], [f"{each:03}" for each in train])
            scores[repeat, test] = (ridge.predict(values[test])[:, 0] - labels[test]) ** 2
    tested = np.isfinite(scores).all(axis=0)
    return ArmScores(name, scores[:, tested], [f"p{each:03}" for each in np.flatnonzero(tested)], False)


def site(seed: int, patients: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """A generator, the labels of a site, and what images show of them: a weak signal among noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(patients) % 2 * 1.0
    shown = rng.normal(size=(patients, 6))
    shown[:, 0] += 1.0 * labels
    return rng, labels, shown


def seen_anew(rng: np.random.Generator, shown: np.ndarray) -> Draw:
    """Features that each training finds anew, equally good: what is shown, with noise of their own."""
    noise: dict[tuple[int, int], np.ndarray] = {}
    for place in ((repeat, fold) for repeat in range(REPEATS) for fold in range(max(5, len(shown)))):
        noise[place] = 0.5 * rng.normal(size=shown.shape)
    return lambda repeat, fold: shown + noise[repeat, fold]


def compared(seed: int, patients: int, leak: bool = False) -> Comparison:
    rng, labels, shown = site(seed, patients)
    one, other = seen_anew(rng, shown), seen_anew(rng, shown)

    def leaking(repeat: int, fold: int) -> np.ndarray:
        return np.column_stack([one(repeat, fold), labels])

    arms: Mapping[str, Draw] = {"a": leaking if leak else one, "b": other}
    a, b = (cross_validated(name, features, labels) for name, features in arms.items())
    return compare_arms(a, b, margin=0.0)


def test_two_procedures_that_are_equally_good_are_rarely_called_different() -> None:
    words = [compared(seed, patients=30).word for seed in range(100)]
    assert words.count("superior") + words.count("inferior") <= 0.065 * len(words)
    assert set(words) <= {"superior", "inferior", "not decided"}


@pytest.mark.parametrize("patients", [20, 30, 60])
def test_labels_in_the_features_of_one_procedure_are_found(patients: int) -> None:
    found = [compared(seed, patients, leak=True) for seed in range(10)]
    assert [each.word for each in found].count("superior") >= 9
    assert all(each.estimate > 0 for each in found)


def test_five_patients_have_no_word_even_with_a_leak() -> None:
    found = compared(0, 5, leak=True)
    assert (found.word, found.reason) == ("", "5 patients with scores in both, and a verdict needs 6")
