# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Choose the procedure that a study hands over, and say how good it is without the luck of being chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_essa.evaluation.repeats import LEAST_PATIENTS, LEAST_REPEATS, ArmScores, interval_within, mean_interval

__all__ = ["Chosen", "choose_arm", "name_in_advance"]

_LEVEL = 0.95
_DRAWS = 1000
_MOST_VALUES = 4_000_000  # of the scores of some draws that are held at once


@dataclass(frozen=True)
class Chosen:
    """The procedure that is handed over.

    Attributes:
        name: of the procedure.
        mean: its score on a new patient, corrected for the choice among several; NaN if it cannot be told.
        low: lower end of its 95 % interval; NaN without one.
        high: upper end.
        uncorrected: its mean score in the study.
        reason: why it was chosen, in words.
    """

    name: str
    mean: float
    low: float = math.nan
    high: float = math.nan
    uncorrected: float = math.nan
    reason: str = ""


def choose_arm(arms: Sequence[ArmScores], margin: float, seed: int = 0) -> Chosen:
    r"""Choose the highest mean, unless a simpler procedure is shown to be non-inferior to it.

    A procedure is shown to be non-inferior if the interval of its difference to the highest mean, at the level
    :math:`1 - 0.05 / (A - 1)` for A procedures, lies above minus the margin; the simplest of these is chosen. With
    fewer than 6 patients or 3 repeats nothing is shown, and the highest mean is chosen.

    The highest of several means is too high on average. So the choice is made again in 1,000 bootstrap draws of the
    patients and of the repeats, and what a draw chooses is scored on the patients and repeats that it left out
    (Tsamardinos et al. 2018, doi:10.1007/s10994-018-5714-4, there with patients alone). The mean of these scores is the
    corrected one, and the interval is that of the chosen procedure, moved by the correction.

    Args:
        arms: the candidates from the simplest to the least simple, with the same patients and repeats in one order.
        margin: by how much a procedure may be worse and still be non-inferior.
        seed: of the draws.

    Returns:
        The choice; its mean is NaN if no patient has a defined score in every procedure and repeat.

    Raises:
        ValueError: if there is no candidate, or they differ in patients or repeats.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> names = [f"p{number}" for number in range(30)]
        >>> simple, other = (ArmScores(name, 0.8 + 0.01 * rng.normal(size=(5, 30)), names) for name in "ab")
        >>> choose_arm([simple, other], margin=0.02).name
        'a'
    """
    if not arms or any(list(arm.patients) != list(arms[0].patients) or len(arm.scores) != len(arms[0].scores)
                       for arm in arms):  # fmt: skip
        raise ValueError("expected candidates with the same patients and repeats, in one order")
    sign = 1.0 if arms[0].higher_is_better else -1.0
    scores = sign * np.stack([arm.scores for arm in arms]).astype(float)  # (A, R, N), higher is better
    scores = scores[:, :, np.isfinite(scores).all(axis=(0, 1))]
    if not scores.shape[2]:
        return Chosen(arms[0].name, math.nan, reason="no patient has every score, so the simplest was chosen")
    shows = scores.shape[1] >= LEAST_REPEATS and scores.shape[2] >= LEAST_PATIENTS
    place = int(_choices(scores[None], margin, shows)[0])
    best = int(scores.mean(axis=(1, 2)).argmax())
    corrected = _left_out_score(scores, margin, shows, np.random.default_rng(seed)) if len(arms) > 1 else math.nan
    uncorrected = float(scores[place].mean())
    mean = uncorrected if math.isnan(corrected) else corrected
    half = float(mean_interval(scores[place], _LEVEL)[1]) if scores.shape[2] >= LEAST_PATIENTS else math.nan
    low, high = interval_within(arms[0].bounds, sign * mean, half)
    why = "it has the best mean" if place == best else f"it is simpler than {arms[best].name!r} and non-inferior to it"
    return Chosen(arms[place].name, sign * mean, low, high, sign * uncorrected, why)


def name_in_advance(arms: Sequence[ArmScores], wanted: Sequence[str]) -> Chosen:
    """Take the procedure that was fixed before the scores were seen, which needs no correction.

    Args:
        arms: the procedures with scores, at least one.
        wanted: names, the first of which that has scores is taken.

    Returns:
        The choice, with its mean and 95 % interval.

    Raises:
        ValueError: if none of them has scores.
    """
    found = next((arm for name in wanted for arm in arms if arm.name == name), None)
    if found is None:
        raise ValueError(f"none of {', '.join(wanted)} has scores; expected at least one")
    scores = found.scores[:, np.isfinite(found.scores).all(axis=0)].astype(float)
    mean = float(scores.mean()) if scores.size else math.nan
    half = float(mean_interval(scores, _LEVEL)[1]) if scores.shape[1] >= LEAST_PATIENTS else math.nan
    low, high = interval_within(found.bounds, mean, half)
    return Chosen(found.name, mean, low, high, mean, "it was fixed before the scores were seen")


def _choices(scores: np.ndarray, margin: float, shows: bool) -> np.ndarray:
    """Return the place of the chosen procedure in each of B sets of scores (B, A, R, N)."""
    means = scores.mean(axis=(2, 3))  # (B, A)
    best = means.argmax(axis=1)
    if not shows or scores.shape[1] == 1:
        return best
    level = 1 - (1 - _LEVEL) / (scores.shape[1] - 1)
    highest = np.take_along_axis(scores, best[:, None, None, None], axis=1)
    difference, half = mean_interval(scores - highest, level)  # (B, A)
    fits = (difference - half > -margin) | (np.arange(scores.shape[1]) == best[:, None])
    return fits.argmax(axis=1)


def _left_out_score(scores: np.ndarray, margin: float, shows: bool, rng: np.random.Generator) -> float:
    """Return the mean score, on what a draw leaves out, of the procedure that the draw chooses."""
    count, repeats, patients = scores.shape
    size = max(1, _MOST_VALUES // scores.size)
    found = []
    for start in range(0, _DRAWS, size):
        draws = min(size, _DRAWS - start)
        who, which = rng.integers(patients, size=(draws, patients)), rng.integers(repeats, size=(draws, repeats))
        drawn = scores[:, which[:, :, None], who[:, None, :]].swapaxes(0, 1)  # (draws, A, R, N)
        chosen = _choices(drawn, margin, shows)
        out = _weights(which, repeats)[:, :, None] * _weights(who, patients)[:, None, :]  # (draws, R, N)
        total = out.sum(axis=(1, 2))
        sums = np.einsum("drn,arn->da", out, scores)[np.arange(draws), chosen]
        found.append(np.divide(sums, total, out=np.full(draws, math.nan), where=total > 0))
    values = np.concatenate(found)
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _weights(drawn: np.ndarray, number: int) -> np.ndarray:
    """Return 1 for what a draw (B, K) leaves out of a number of things and 0 for the rest; 1 for a single thing."""
    there = np.zeros((len(drawn), number))
    np.put_along_axis(there, drawn, 1.0, axis=1)
    return np.ones_like(there) if number == 1 else 1.0 - there
