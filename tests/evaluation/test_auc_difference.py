# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The AUC is compared within repeats of one large test set, or not at all, and its interval covers the truth."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from monai_essa.evaluation.auc_difference import auc_comparison, why_no_auc
from monai_essa.evaluation.comparison import Primary
from monai_essa.evaluation.metrics import area_under_roc
from monai_essa.evaluation.run_scores import BRIER, DICE, RunScores, SiteScores, site_scores

OF_CLASS, REPEATS = 50, 5


def run(chances: np.ndarray, labels: np.ndarray, seed: int, name: str = "run") -> RunScores:
    """A run whose table has the probability of the second class."""
    cases = [f"/s/p{number:03}.png" for number in range(len(labels))]
    truth = {case: (("no", "yes")[label],) for case, label in zip(cases, labels, strict=True)}
    table = {case: (1 - chance, chance) for case, chance in zip(cases, chances, strict=True)}
    scores = dict(zip(cases, (chances - labels) ** 2, strict=True))
    return RunScores(Path(f"{name}{seed}"), BRIER, scores, truth, seed, ("no", "yes"), table)


def site(seed: int, gain: float = 0.0, of_class: int = OF_CLASS, repeats: int = REPEATS) -> SiteScores:
    """Two procedures that see the same evidence, each repeat with noise of its own; one sees it a little better."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], of_class)
    evidence = labels + rng.normal(size=len(labels))

    def repeated(name: str, better: float) -> list[RunScores]:
        shifts = better + 0.15 * rng.normal(size=repeats)
        seen = [evidence + shift * labels + 0.3 * rng.normal(size=len(labels)) for shift in shifts]
        return [run(norm.cdf(each - 0.5), labels, number, name) for number, each in enumerate(seen)]

    return site_scores({"a": repeated("a", gain), "b": repeated("b", 0.0)})


def test_the_estimate_is_the_mean_difference_of_the_auc_of_each_repeat() -> None:
    found = site(0, gain=0.3)
    truth = np.eye(2)[np.repeat([0, 1], OF_CLASS)]
    by_arm = {
        name: [area_under_roc(np.array(list(each.probabilities.values())), truth) for each in runs]
        for name, runs in found.runs.items()
    }
    comparison = auc_comparison(found, "a", "b")
    assert comparison.estimate == pytest.approx(np.mean(by_arm["a"]) - np.mean(by_arm["b"]))
    assert comparison.low < comparison.estimate < comparison.high
    assert (comparison.word, comparison.metric, comparison.repeats) == ("", "AUC", REPEATS)
    assert str(comparison).startswith("a against b, for description, in AUC: ahead by 0.")
    other = auc_comparison(found, "b", "a")
    assert (other.estimate, other.low) == pytest.approx((-comparison.estimate, -comparison.high))


def test_the_interval_covers_the_truth() -> None:
    """The truth: an AUC is the normal distribution of the distance between the classes, here with the gain's noise."""
    gain, noise = 0.4, math.sqrt(2 * (1 + 0.3**2))
    shifts = np.random.default_rng(1).normal(size=100_000) * 0.15
    truth = float(np.mean(norm.cdf((1 + gain + shifts) / noise)) - np.mean(norm.cdf((1 + shifts) / noise)))
    found = [auc_comparison(site(seed, gain), "a", "b") for seed in range(60)]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    assert covered >= 0.92


def test_a_primary_comparison_has_the_word_of_its_interval_and_a_null_is_rarely_called_different() -> None:
    better = auc_comparison(site(5, gain=1.0), "a", "b", primary=Primary("a", "b", "superiority"))
    assert (better.word, better.question, better.margin) == ("superior", "superiority", 0.0)
    assert str(better).startswith("a is superior to b, in AUC: ahead by 0.")
    near = auc_comparison(site(5), "a", "b", primary=Primary("a", "b"), margin=0.5)
    assert near.word in ("superior", "non-inferior") and near.margin == 0.5
    question = Primary("a", "b", "superiority")
    words = [auc_comparison(site(seed), "a", "b", primary=question).word for seed in range(100, 160)]
    assert words.count("superior") + words.count("inferior") <= 0.1 * len(words)


def test_two_repeats_have_no_word() -> None:
    found = auc_comparison(site(6, repeats=2), "a", "b", primary=Primary("a", "b"))
    assert not found.word and found.reason == "provisional: 2 repeats, and a verdict needs 3"


def test_images_of_a_patient_are_drawn_together() -> None:
    one = site(2)
    pairs = {case: f"p{number // 2}" for number, case in enumerate(next(iter(one.runs.values()))[0].scores)}
    together = site_scores(one.runs, pairs)
    assert "a class has 25 test patients" in why_no_auc(together)
    large = site(2, of_class=100)
    pairs = {case: f"p{number // 2}" for number, case in enumerate(next(iter(large.runs.values()))[0].scores)}
    paired = auc_comparison(site_scores(large.runs, pairs), "a", "b")
    assert paired.estimate == pytest.approx(auc_comparison(large, "a", "b").estimate)


def test_what_cannot_be_compared_says_why() -> None:
    found = site(3)
    assert why_no_auc(found) == ""
    folds = {name: [replace(each, folds=5) for each in runs] for name, runs in found.runs.items()}
    assert why_no_auc(replace(found, runs=folds)) == "an AUC is not pooled over folds"
    assert why_no_auc(replace(found, undefined=1)) == "a case lacks probabilities in some run"
    assert why_no_auc(replace(found, metric=DICE)) == "there are no probabilities of classes"
    assert why_no_auc(site(3, of_class=49)) == "a class has 49 test patients, and an AUC needs 50"
    first = found.runs["a"][0]
    several = replace(first, truth=dict.fromkeys(first.truth, ("no", "yes")))
    assert why_no_auc(replace(found, runs={"a": [several]})) == "an image may have several classes"
    one_class = replace(first, truth=dict.fromkeys(first.truth, ("no",)))
    assert "a class has 0 test patients" in why_no_auc(replace(found, runs={"a": [one_class]}))
    with pytest.raises(ValueError, match="the AUC of 'a' and 'b' is not compared: an AUC is not pooled over folds"):
        auc_comparison(replace(found, runs=folds), "a", "b")


def test_the_order_of_columns_and_cases_plays_no_part() -> None:
    found = site(4)
    turned = [
        replace(each, classes=("yes", "no"), probabilities={case: chances[::-1] for case, chances in
                                                            reversed(each.probabilities.items())})
        for each in found.runs["b"]
    ]  # fmt: skip
    other = site_scores({"a": found.runs["a"], "b": turned})
    assert auc_comparison(other, "a", "b") == auc_comparison(found, "a", "b")
