# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Compare procedures patient by patient, over repeats of their training, and let the word follow the interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from monai_essa.evaluation.repeats import mean_interval, patients_to_decide

__all__ = ["ArmScores", "Comparison", "Verdict", "compare_arms", "reach_verdict", "verdict_word"]

_LEAST_PATIENTS = 6  # with fewer, a comparison shows the differences and no verdict
_LEAST_REPEATS = 3  # with fewer, a comparison is provisional
_LEVEL = 0.95
_VERSION = 1  # of the JSON


@dataclass(frozen=True, eq=False)
class ArmScores:
    """The scores of one procedure on the patients of a site.

    Args:
        name: of the procedure.
        scores: (R, N), of R repeats of the training and N patients. A value that is not finite is undefined.
        patients: the N patients, each once.
        higher_is_better: whether a higher score is the better one.

    Raises:
        ValueError: if the scores are not (R, N) with at least one of both, or a patient comes twice.
    """

    name: str
    scores: np.ndarray
    patients: Sequence[str]
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        expected = f"expected (R, {len(self.patients)}) scores, a column for each patient"
        if self.scores.ndim != 2 or self.scores.shape[1] != len(self.patients) or not self.scores.size:
            raise ValueError(f"arm {self.name!r}: {expected}, got shape {self.scores.shape}")
        if len(set(self.patients)) != len(self.patients):
            twice = next(name for name in self.patients if list(self.patients).count(name) > 1)
            raise ValueError(f"arm {self.name!r}: patient {twice!r} comes twice; expected one score for each repeat")


@dataclass(frozen=True)
class Comparison:
    """What two procedures differ by, on a new patient, over training draws and seeds.

    Attributes:
        a: name of the first procedure.
        b: name of the second.
        estimate: the mean paired difference; above 0 if the first is better, also where a lower score is better. NaN if
            no patient has a score in both.
        low: lower end of its interval; NaN without one.
        high: upper end.
        word: ``"superior"``, ``"non-inferior"``, ``"inferior"`` or ``"not decided"`` (:func:`verdict_word`); empty if
            there is no verdict.
        reason: why there is no verdict; empty if there is one.
        decidable: the smallest difference that is decidable here, half the width of the interval.
        patients_needed: about how many patients would decide what is not decided, with the variances as they are here;
            None if no number would, as where the spread of the repeats alone is too large.
        margin: how much worse than the second the first may be and still be non-inferior.
        level: of the interval.
        repeats: R.
        undefined: how many patients are left out, since they have no defined score in one of the arms or repeats.
        differences: of each patient that is compared, the mean over the repeats.
    """

    a: str
    b: str
    estimate: float
    low: float = math.nan
    high: float = math.nan
    word: str = ""
    reason: str = ""
    decidable: float = math.nan
    patients_needed: int | None = None
    margin: float = 0.0
    level: float = _LEVEL
    repeats: int = 1
    undefined: int = 0
    differences: tuple[float, ...] = ()

    def __str__(self) -> str:
        if math.isnan(self.estimate):
            return f"{self.a} against {self.b}: no verdict ({self.reason})"
        return "; ".join([f"{self._outcome()}: {self._numbers()}", *self._what_would_decide()])

    def _outcome(self) -> str:
        if not self.word:
            return f"{self.a} against {self.b}: no verdict ({self.reason})"
        if self.word == "not decided":
            return f"{self.a} against {self.b} is not decided"
        within = f" within the margin of {self.margin:g}" if self.word == "non-inferior" else ""
        return f"{self.a} is {self.word} to {self.b}{within}"

    def _numbers(self) -> str:
        numbers = f"{'ahead' if self.estimate >= 0 else 'behind'} by {abs(self.estimate):.4f} on average"
        if not math.isnan(self.low):
            return f"{numbers}, {100 * self.level:.4g} % interval {self.low:+.4f} to {self.high:+.4f}"
        if len(self.differences) >= _LEAST_PATIENTS:
            return numbers
        return f"{numbers} (by patient: {', '.join(f'{value:+.4f}' for value in self.differences)})"

    def _what_would_decide(self) -> list[str]:
        if math.isnan(self.low):
            return []
        smallest = [f"the smallest difference decidable here is {self.decidable:.4f}"]
        if self.word != "not decided":
            return smallest
        if self.patients_needed is None:
            return [*smallest, "no number of patients would decide it with repeats that vary as these do"]
        return [*smallest, f"about {self.patients_needed:,} patients would decide it"]


@dataclass(frozen=True)
class Verdict:
    """The comparisons of a study with what they rest on.

    Attributes:
        protocol: what was fixed before: plain values.
        arms: of each procedure ``name``, ``mean``, ``low`` and ``high`` (its own 95 % interval) and ``n``, how many
            patients have a defined score.
        comparisons: the first procedure against each other one.
    """

    protocol: Mapping[str, Any]
    arms: Sequence[Mapping[str, Any]]
    comparisons: Sequence[Comparison] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is not a number is None.

        Returns:
            ``version`` of this form, ``protocol``, ``arms`` and ``comparisons``. The same scores give the same values:
            no clock, no path, no name of a machine or a patient.
        """
        return {
            "version": _VERSION,
            "protocol": _plain(dict(self.protocol)),
            "arms": [_plain(dict(arm)) for arm in self.arms],
            "comparisons": [
                _plain(asdict(each) | {"patients": len(each.differences), "word": each.word or None})
                for each in self.comparisons
            ],
        }


def verdict_word(low: float, high: float, margin: float = 0.0) -> str:
    """Return the word for the interval of a difference that is above 0 if the first procedure is better.

    The first of these that holds:

    - ``"superior"``: the interval is above 0.
    - ``"non-inferior"``: it is above ``-margin``. It may lie below 0, where the first is shown to be worse by less than
      what was agreed to matter.
    - ``"inferior"``: it is below 0, and reaches to ``-margin`` or beyond: the first is shown to be worse, and not shown
      to be worse by so little. One that must be below ``-margin`` for this word would leave a loss that is shown "not
      decided".
    - ``"not decided"``.

    Args:
        low: lower end.
        high: upper end.
        margin: at least 0; with 0 nothing is non-inferior.

    Raises:
        ValueError: if the margin is negative or not finite, or the ends are not in order.

    Example:
        >>> verdict_word(-0.01, 0.03, margin=0.02), verdict_word(-0.03, 0.03, margin=0.02)
        ('non-inferior', 'not decided')
    """
    _check_margin(margin)
    if not low <= high:
        raise ValueError(f"expected an interval with low <= high, got {low} to {high}")
    if low > 0:
        return "superior"
    if low > -margin:
        return "non-inferior"
    return "inferior" if high < 0 else "not decided"


def compare_arms(a: ArmScores, b: ArmScores, margin: float = 0.0, comparisons: int = 1) -> Comparison:
    r"""Estimate the mean paired difference of two procedures on a new patient of this site, and say what it shows.

    With :math:`d_{r,i}` the difference in repeat r and patient i, its mean has the interval of
    :func:`~monai_essa.evaluation.repeats.mean_interval` at the level :math:`1 - 0.05 / m` for m primary comparisons, so
    that a word follows from its interval. There is no verdict, and ``reason`` says why, with fewer than 6 patients
    (which have no interval either), with fewer than 3 repeats (the result is provisional), or if the differences do not
    vary at all.

    In simulations of five repeats with effects of patients, repeats and folds, .94 to .97 of the intervals covered the
    truth; where nothing but noise differs between patients and repeats, .99 do.

    Args:
        a: the first procedure.
        b: the second, on the same patients in any order, with the same repeats: repeat r of both has the same draw of
            the training data where possible.
        margin: how much worse the first may be and still be non-inferior.
        comparisons: how many primary comparisons there are.

    Returns:
        The comparison, on the patients whose scores are defined in every repeat of both.

    Raises:
        ValueError: if the patients, the repeats or the direction of the scores differ, the margin is negative, or
            there is no comparison.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> names = [f"p{number}" for number in range(20)]
        >>> plain = ArmScores("plain", 0.7 + 0.05 * rng.normal(size=(5, 20)), names)
        >>> adapted = ArmScores("adapted", plain.scores + 0.1 + 0.05 * rng.normal(size=(5, 20)), names)
        >>> compare_arms(adapted, plain).word
        'superior'
    """
    _check_margin(margin)
    if comparisons < 1:
        raise ValueError(f"comparisons: expected at least 1, got {comparisons}")
    _check_alike(a, b)
    place = {name: column for column, name in enumerate(b.patients)}
    other = b.scores[:, [place[name] for name in a.patients]]
    differences = np.asarray(a.scores - other if a.higher_is_better else other - a.scores, dtype=float)  # (R, N)
    defined = np.isfinite(a.scores).all(axis=0) & np.isfinite(other).all(axis=0)
    return _compared((a.name, b.name), differences[:, defined], int((~defined).sum()), margin, 1 - 0.05 / comparisons)


def reach_verdict(arms: Sequence[ArmScores], margin: float = 0.0, protocol: Mapping[str, Any] | None = None) -> Verdict:
    """Compare the first procedure with each other one.

    Args:
        arms: at least two, of different names.
        margin: as for :func:`compare_arms`.
        protocol: what else was fixed before, as plain values; the margin, the level of the intervals, the number of
            comparisons and of repeats, and the direction of the scores are added.

    Returns:
        The verdict; the intervals of the comparisons hold together at 95 %.

    Raises:
        ValueError: as :func:`compare_arms`, or if there is one arm only, or a name comes twice.
    """
    names = [arm.name for arm in arms]
    if len(arms) < 2 or len(set(names)) < len(names):
        raise ValueError(f"expected at least two arms of different names, got {', '.join(names) or 'none'}")
    first, *others = arms
    fixed = {
        "margin": margin,
        "comparisons": len(others),
        "level": 1 - 0.05 / len(others),
        "repeats": len(first.scores),
        "higher_is_better": first.higher_is_better,
    }
    comparisons = [compare_arms(first, other, margin, len(others)) for other in others]
    return Verdict(dict(protocol or {}) | fixed, [_arm_row(arm) for arm in arms], comparisons)


def _compared(
    names: tuple[str, str], differences: np.ndarray, undefined: int, margin: float, level: float
) -> Comparison:
    """Compare by differences (R, N) that are all defined."""
    repeats, patients = differences.shape
    by_patient = tuple(map(float, differences.mean(axis=0)))
    known = {"margin": margin, "level": level, "repeats": repeats, "undefined": undefined, "differences": by_patient}
    estimate = float(differences.mean()) if patients else math.nan
    if patients < _LEAST_PATIENTS:
        reason = f"{patients} patients with scores in both, and a verdict needs {_LEAST_PATIENTS}"
        return Comparison(*names, estimate, reason=reason, **known)
    half = float(mean_interval(differences, level)[1])
    if math.isnan(half):
        reason = "the differences do not vary between patients and repeats"
        return Comparison(*names, estimate, reason=reason, **known)
    low, high = estimate - half, estimate + half
    found = {"low": low, "high": high, "decidable": half} | known
    if repeats < _LEAST_REPEATS:
        reason = f"provisional: {_repeats(repeats)}, and a verdict needs {_LEAST_REPEATS}"
        return Comparison(*names, estimate, reason=reason, **found)
    word = verdict_word(low, high, margin)
    needed = patients_to_decide(differences, _nearest(estimate, margin), level) if word == "not decided" else None
    return Comparison(*names, estimate, word=word, patients_needed=needed, **found)


def _nearest(estimate: float, margin: float) -> float:
    """Return the widest half width with which some word would be decided around an estimate."""
    return max(abs(estimate), estimate + margin)


def _repeats(number: int) -> str:
    return f"{number} repeat{'' if number == 1 else 's'} of the training"


def _arm_row(arm: ArmScores) -> dict[str, Any]:
    scores = arm.scores[:, np.isfinite(arm.scores).all(axis=0)].astype(float)
    row = {"name": arm.name, "mean": math.nan, "low": math.nan, "high": math.nan, "n": scores.shape[1]}
    if not row["n"]:
        return row
    row["mean"] = float(scores.mean())
    if scores.shape[1] >= _LEAST_PATIENTS:
        half = float(mean_interval(scores, _LEVEL)[1])
        row |= {"low": row["mean"] - half, "high": row["mean"] + half}
    return row


def _check_margin(margin: float) -> None:
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin: expected a number of at least 0, got {margin}")


def _check_alike(a: ArmScores, b: ArmScores) -> None:
    for one, two in ((a, b), (b, a)):
        lacking = sorted(set(one.patients) - set(two.patients))
        if lacking:
            raise ValueError(
                f"{two.name!r} has no score of patient {lacking[0]!r}, which {one.name!r} has; score both on the same "
                "patients"
            )
    if len(a.scores) != len(b.scores):
        raise ValueError(
            f"{a.name!r} has {_repeats(len(a.scores))}, {b.name!r} {len(b.scores)}; expected as many of both"
        )
    if a.higher_is_better != b.higher_is_better:
        raise ValueError(f"a higher score is better in only one of {a.name!r} and {b.name!r}; compare one metric")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
