# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Compare the AUC of two procedures on one test set, over repeats of their training.

An AUC belongs to a set of patients, not to one: it has no difference by patient. Probabilities of different trainings
are on scales of their own, so the AUC of each repeat is computed within the repeat, and never over folds.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
from scipy.stats import rankdata

from monai_essa.evaluation.comparison import DESCRIPTION, NON_INFERIORITY, Comparison, Primary, verdict_word
from monai_essa.evaluation.repeats import LEAST_REPEATS, student_half_width
from monai_essa.evaluation.run_scores import BRIER, RunScores, SiteScores, case_paths

__all__ = ["LEAST_OF_CLASS", "auc_comparison", "why_no_auc"]

LEAST_OF_CLASS = 50
"""Test patients of each class; with fewer, an AUC is not compared."""
_DRAWS = 1000


def why_no_auc(site: SiteScores) -> str:
    """Return why the AUC of a site's arms is not compared; empty if it may be.

    It may be where each image has one class, each class has 50 test patients or more, every case has probabilities in
    every run, and each repeat is one training with one test set.
    """
    runs = [run for repeats in site.runs.values() for run in repeats]
    if site.metric != BRIER:
        return "there are no probabilities of classes"
    if any(run.folds > 1 for run in runs):
        return "an AUC is not pooled over folds"
    if any(len(label) != 1 for label in runs[0].truth.values()):
        return "an image may have several classes"
    if site.undefined:
        return "a case lacks probabilities in some run"
    counts = Counter(_classes_of_patients(site).values())
    names = {label[0] for label in runs[0].truth.values()}
    fewest = min(counts.get((name,), 0) for name in names) if len(names) > 1 else 0
    return "" if fewest >= LEAST_OF_CLASS else f"a class has {fewest} test patients, and an AUC needs {LEAST_OF_CLASS}"


def auc_comparison(
    site: SiteScores,
    a: str,
    b: str,
    level: float = 0.95,
    seed: int = 0,
    primary: Primary | None = None,
    margin: float = 0.0,
) -> Comparison:
    r"""Estimate by how much the AUC of one procedure exceeds that of another, each class against the others.

    With :math:`d_r` the difference in repeat r, the variance of its mean over R repeats is the variance of that mean
    under a bootstrap that draws the patients of each class with replacement, plus
    :math:`\operatorname{var}_r(d_r) / R`; Student's t has Satterthwaite's degrees of freedom, with those of the rarest
    class for the patients.

    Args:
        site: of :func:`~monai_essa.evaluation.run_scores.site_scores`.
        a: name of the first procedure.
        b: name of the second.
        level: of the interval.
        seed: of the draws.
        primary: the question that is decided, fixed before the first run; None describes.
        margin: of a question of non-inferiority.

    Returns:
        The comparison, with ``metric`` ``"AUC"``; a higher AUC is better. It has a word if it is primary and there are
        3 repeats or more.

    Raises:
        ValueError: if the AUC is not compared here, as :func:`why_no_auc` says.
    """
    reason = why_no_auc(site)
    if reason:
        raise ValueError(f"the AUC of {a!r} and {b!r} is not compared: {reason}")
    by_repeat, of_patients = _differences(site, a, b, seed)
    repeats, fewest = len(by_repeat), min(Counter(_classes_of_patients(site).values()).values())
    terms = [of_patients, by_repeat.var(ddof=1) / repeats if repeats > 1 else 0.0]
    half = float(student_half_width(terms, [fewest - 1, max(1, repeats - 1)], level))
    estimate = float(by_repeat.mean())
    described = Comparison(
        a,
        b,
        estimate,
        low=estimate - half,
        high=estimate + half,
        reason="not a primary comparison",
        decidable=half,
        level=level,
        repeats=repeats,
        question=DESCRIPTION,
        metric="AUC",
    )
    return described if primary is None else _decided(described, primary, margin)


def _decided(found: Comparison, primary: Primary, margin: float) -> Comparison:
    """Give a comparison its question, and the word that follows from its interval."""
    own = margin if primary.question == NON_INFERIORITY else 0.0
    asked = replace(found, question=primary.question, margin=own)
    if math.isnan(found.low):
        return replace(asked, reason="the differences do not vary between patients and repeats")
    if found.repeats < LEAST_REPEATS:
        return replace(asked, reason=f"provisional: {found.repeats} repeats, and a verdict needs {LEAST_REPEATS}")
    return replace(asked, word=verdict_word(found.low, found.high, own), reason="")


def _differences(site: SiteScores, a: str, b: str, seed: int) -> tuple[np.ndarray, float]:
    """Return the difference of AUC of each repeat, and the variance of their mean over draws of the patients."""
    first, second = (np.stack([_probabilities(site, run) for run in site.runs[name]]) for name in (a, b))  # (R, M, C)
    weights, truth = _drawn_weights(site, np.random.default_rng(seed)), _truth(site)  # (draws, M), (M,)
    classes = [(first[:, :, k], second[:, :, k], truth == k) for k in range(first.shape[2])]
    by_repeat = np.mean([_aucs(one, there) - _aucs(other, there) for one, other, there in classes], axis=0)
    by_draw = np.mean([_drawn_difference(*each, weights) for each in classes], axis=0)
    return by_repeat, float(by_draw.var(ddof=1))


def _classes_of_patients(site: SiteScores) -> dict[str, tuple[str, ...]]:
    """Return the classes of each patient's images, sorted."""
    run = next(iter(site.runs.values()))[0]
    held: dict[str, set[str]] = defaultdict(set)
    for owner, case in zip(site.owners, case_paths(run).values(), strict=True):
        held[owner] |= set(run.truth[case])
    return {owner: tuple(sorted(classes)) for owner, classes in held.items()}


def _truth(site: SiteScores) -> np.ndarray:
    """Return the number of each case's class among the sorted names (M,)."""
    run = next(iter(site.runs.values()))[0]
    names = sorted({label[0] for label in run.truth.values()})
    return np.array([names.index(run.truth[case][0]) for case in case_paths(run).values()])


def _probabilities(site: SiteScores, run: RunScores) -> np.ndarray:
    """Return the probabilities of a run (M, C) in the order of the first run's cases, for the sorted classes."""
    reference = next(iter(site.runs.values()))[0]
    own = case_paths(run)
    columns = [run.classes.index(name) for name in sorted({label[0] for label in reference.truth.values()})]
    return np.array([run.probabilities[own[case]] for case in case_paths(reference)])[:, columns]


def _aucs(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return the AUC of each repeat, from scores (R, M)."""
    ranks = rankdata(scores, axis=1)[:, positive].sum(axis=1)
    count = positive.sum()
    values: np.ndarray = (ranks - count * (count + 1) / 2) / (count * (~positive).sum())
    return values


def _drawn_weights(site: SiteScores, rng: np.random.Generator) -> np.ndarray:
    """Return how often each image is drawn (draws, M): its patient, among those of the same class."""
    classes = _classes_of_patients(site)
    patients = sorted(classes)
    counts = np.zeros((_DRAWS, len(patients)))
    for stratum in sorted(set(classes.values())):
        members = np.array([place for place, patient in enumerate(patients) if classes[patient] == stratum])
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=_DRAWS)
    places = {patient: place for place, patient in enumerate(patients)}
    return counts[:, [places[owner] for owner in site.owners]]


def _drawn_difference(first: np.ndarray, second: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the difference of AUC, the mean over the repeats, in each draw."""
    above = np.zeros((positive.sum(), (~positive).sum()))
    for one, other in zip(first, second, strict=True):
        above += _wins(one, positive) - _wins(other, positive)
    drawn_positive, drawn_negative = weights[:, positive], weights[:, ~positive]
    sums = ((drawn_positive @ (above / len(first))) * drawn_negative).sum(axis=1)
    values: np.ndarray = sums / (drawn_positive.sum(axis=1) * drawn_negative.sum(axis=1))
    return values


def _wins(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return 1 where a positive image scores higher than a negative one, and 1/2 where they are equal."""
    difference = scores[positive][:, None] - scores[~positive][None, :]
    return (np.sign(difference) + 1) / 2
