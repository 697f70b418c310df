# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Compute the interval of a mean over patients and over repeats of a training, and the patients that decide a question.

A repeat trains again, from another draw of the training data and another seed, and tests every patient once: in one
test set, or fold by fold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

__all__ = [
    "LEAST_PATIENTS",
    "LEAST_REPEATS",
    "ArmScores",
    "interval_within",
    "mean_interval",
    "patients_to_decide",
    "spread",
    "student_half_width",
]

LEAST_PATIENTS = 6
"""With fewer, a comparison shows the differences and no verdict."""
LEAST_REPEATS = 3
"""With fewer, a comparison is provisional."""
_NO_VARIANCE = 1.0e-24  # of scores about 1: what rounding leaves of values that are all the same
_MOST_PATIENTS = 10**6  # beyond, no number of patients is a plan


@dataclass(frozen=True, eq=False)
class ArmScores:
    """The scores of one procedure on the patients of a site.

    Args:
        name: of the procedure.
        scores: (R, N), of R repeats of the training and N patients. A value that is not finite is undefined.
        patients: the N patients, each once.
        higher_is_better: whether a higher score is the better one.
        bounds: the least and the greatest value of a score, at which the interval of a mean ends.

    Raises:
        ValueError: if the scores are not (R, N) with at least one of both, or a patient comes twice.
    """

    name: str
    scores: np.ndarray
    patients: Sequence[str]
    higher_is_better: bool = True
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        expected = f"expected (R, {len(self.patients)}) scores, a column for each patient"
        if self.scores.ndim != 2 or self.scores.shape[1] != len(self.patients) or not self.scores.size:
            raise ValueError(f"arm {self.name!r}: {expected}, got shape {self.scores.shape}")
        if len(set(self.patients)) != len(self.patients):
            twice = next(name for name in self.patients if list(self.patients).count(name) > 1)
            raise ValueError(f"arm {self.name!r}: patient {twice!r} comes twice; expected one score for each repeat")


def interval_within(bounds: tuple[float, float], mean: float, half: float) -> tuple[float, float]:
    """Return both ends of the interval of a mean, cut at the bounds of the score; NaN without a half width.

    Example:
        >>> interval_within((0.0, 1.0), 0.25, 0.5)
        (0.0, 0.75)
    """
    if math.isnan(mean - half):
        return math.nan, math.nan
    return max(bounds[0], mean - half), min(bounds[1], mean + half)


def spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return :math:`\operatorname{var}_i(\bar x_{\cdot i})` and :math:`\operatorname{var}_r(\bar x_{r \cdot})`.

    Args:
        values: (..., R, N), of R repeats and N patients, at least 2.

    Returns:
        The variance over patients of their means over repeats, and the variance over repeats of their means over
        patients, (...) both; the second is 0 for a single repeat, which says nothing about it.

    Example:
        >>> of_patients, of_repeats = spread(np.array([[1.0, 3.0], [1.0, 3.0]]))
        >>> float(of_patients), float(of_repeats)
        (2.0, 0.0)
    """
    of_patients = values.mean(axis=-2).var(axis=-1, ddof=1)
    if values.shape[-2] == 1:
        return of_patients, np.zeros_like(of_patients)
    return of_patients, values.mean(axis=-1).var(axis=-1, ddof=1)


def student_half_width(
    terms: Sequence[np.ndarray | float], freedoms: Sequence[np.ndarray | float], level: float
) -> np.ndarray:
    r"""Return half the width of the two-sided interval of an estimate whose variance is a sum of independent terms.

    The quantile is Student's at Satterthwaite's degrees of freedom (1946, doi:10.2307/3002019)

    .. math:: \nu = \Bigl(\sum_k v_k\Bigr)^2 \Big/ \sum_k \frac{v_k^2}{\nu_k}

    Args:
        terms: the terms v, of one shape.
        freedoms: degrees of freedom of each term.
        level: share of repetitions in which the interval should cover the truth.

    Returns:
        The half width, in the shape of the terms; NaN if the variance is 0.

    Example:
        >>> float(student_half_width([1.0], [10], level=0.95).round(3))
        2.228
    """
    variance = np.asarray(sum(terms), dtype=float)
    there = variance > _NO_VARIANCE
    squares = sum(np.square(term) / freedom for term, freedom in zip(terms, freedoms, strict=True))
    freedom = np.square(variance) / np.where(there, squares, 1.0)
    half = stdtrit(np.where(there, freedom, 1.0), (1 + level) / 2) * np.sqrt(variance)
    return np.where(there, half, np.nan)


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    r"""Compute the mean on a new patient over training draws and seeds, with half the width of its interval.

    Of R repeats and N patients,

    .. math:: SE^2 = \operatorname{var}_i(\bar x_{\cdot i}) / N + \operatorname{var}_r(\bar x_{r \cdot}) / R

    with Student's t at Satterthwaite's degrees of freedom. What the patients of a fold share is in the second term,
    since it moves the means of repeats. What remains of a patient in one repeat is in both terms, so that the interval
    is a little wide rather than narrow. With a single repeat there is no second term: the interval is then about the
    networks at hand, not about training them again.

    Args:
        values: (..., R, N), with N at least 2.
        level: share of repetitions in which the interval should cover the truth.

    Returns:
        Mean and half width, (...) both; the half width is NaN if the values do not vary.

    Example:
        >>> mean, half = mean_interval(np.array([[0.7, 0.9, 0.8], [0.6, 0.9, 0.9]]))
        >>> round(float(mean), 3), round(float(half), 3)
        (0.8, 0.329)
    """
    repeats, patients = values.shape[-2:]
    of_patients, of_repeats = spread(values)
    terms, freedoms = [of_patients / patients, of_repeats / repeats], [patients - 1, repeats - 1]
    used = 1 if repeats == 1 else 2
    return values.mean(axis=(-2, -1)), student_half_width(terms[:used], freedoms[:used], level)


def patients_to_decide(values: np.ndarray, distance: float, level: float = 0.95) -> int | None:
    """Return how many patients make the interval so narrow that it no longer reaches from its middle to a bound.

    The variances are taken as they were observed, and the repeats stay as many as they are.

    Args:
        values: (R, N), as for :func:`mean_interval`.
        distance: from the estimate to the bound.
        level: of the interval.

    Returns:
        The least number above N; None if no number up to a million would do, as where the spread of the repeats alone
        is too large.

    Example:
        >>> patients_to_decide(np.array([[0.1, -0.1, 0.1, 0.0, 0.1, 0.0]]), distance=0.033)
        26
    """
    of_patients, of_repeats = spread(values)
    repeats = values.shape[-2]

    def decides(patients: np.ndarray) -> np.ndarray:
        terms: list[np.ndarray | float] = [of_patients / patients, np.full(patients.shape, of_repeats / repeats)]
        used = 1 if repeats == 1 else 2
        half = student_half_width(terms[:used], [patients - 1, repeats - 1][:used], level)
        narrow: np.ndarray = half < distance
        return narrow

    # The width may rise with more patients for a while, since the degrees of freedom fall to those of the repeats.
    tried = np.unique(np.geomspace(values.shape[-1] + 1, _MOST_PATIENTS, 2000).astype(np.int64))
    enough = np.flatnonzero(decides(tried))
    if distance <= 0 or not len(enough):
        return None
    last = enough[0]
    between = np.arange(tried[max(last - 1, 0)], tried[last]) + 1 if last else tried[:1]
    return int(between[decides(between)][0])
