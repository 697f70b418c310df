# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A comparison of two procedures: which question it answers, what was found, and the word that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from monai_essa.evaluation.repeats import LEAST_PATIENTS
from monai_essa.outside import Choice

__all__ = ["DESCRIPTION", "LEVEL", "NON_INFERIORITY", "Comparison", "Primary", "check_margin", "verdict_word"]

LEVEL = 0.95
"""Of intervals that hold together."""
SUPERIORITY = "superiority"
NON_INFERIORITY = "non-inferiority"
"""The question whether the first procedure is at least not worse by a margin."""
DESCRIPTION = "description"
"""The question of a comparison that is only shown."""


@dataclass(frozen=True)
class Primary:
    """A comparison that is decided, named before the first run.

    Args:
        a: name of the first procedure.
        b: name of the second.
        question: ``"superiority"``, whether the first is better, which knows no margin; or ``"non-inferiority"``,
            whether it is at least not worse by the margin.

    Raises:
        ValueError: if the question is another one, or both are the same procedure.
    """

    a: str
    b: str
    question: str = NON_INFERIORITY

    def __post_init__(self) -> None:
        Choice((SUPERIORITY, NON_INFERIORITY)).check(self.question, f"the question of {self.a!r} against {self.b!r}")
        if self.a == self.b:
            raise ValueError(f"expected two procedures to compare, got {self.a!r} twice")


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
        question: as of :class:`Primary`; ``"description"`` if the comparison is not decided but only shown.
        metric: what is compared, where it is not the score of the study.
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
    level: float = LEVEL
    repeats: int = 1
    undefined: int = 0
    differences: tuple[float, ...] = ()
    question: str = NON_INFERIORITY
    metric: str = ""

    def __str__(self) -> str:
        if math.isnan(self.estimate):
            return f"{self.a} against {self.b}: no verdict ({self.reason})"
        return "; ".join([f"{self._outcome()}: {self._numbers()}", *self._what_would_decide()])

    def _outcome(self) -> str:
        metric = f", in {self.metric}" if self.metric else ""
        if self.question == DESCRIPTION:
            return f"{self.a} against {self.b}, for description{metric}"
        if not self.word:
            return f"{self.a} against {self.b}{metric}: no verdict ({self.reason})"
        if self.word == "not decided":
            return f"{self.a} against {self.b} is not decided{metric}"
        within = f" within the margin of {self.margin:g}" if self.word == "non-inferior" else ""
        return f"{self.a} is {self.word} to {self.b}{within}{metric}"

    def _numbers(self) -> str:
        numbers = f"{'ahead' if self.estimate >= 0 else 'behind'} by {abs(self.estimate):.4f} on average"
        if not math.isnan(self.low):
            return f"{numbers}, {100 * self.level:.4g} % interval {self.low:+.4f} to {self.high:+.4f}"
        if len(self.differences) >= LEAST_PATIENTS:
            return numbers
        return f"{numbers} (by patient: {', '.join(f'{value:+.4f}' for value in self.differences)})"

    def _what_would_decide(self) -> list[str]:
        if math.isnan(self.low) or self.question == DESCRIPTION:
            return []
        smallest = [f"the smallest difference decidable here is {self.decidable:.4f}"]
        if self.word != "not decided" or self.metric:  # how many patients is told for the score of the study alone
            return smallest
        if self.patients_needed is None:
            return [*smallest, "no number of patients would decide it with repeats that vary as these do"]
        return [*smallest, f"about {self.patients_needed:,} patients would decide it"]


def verdict_word(low: float, high: float, margin: float = 0.0) -> str:
    """Return the word for the interval of a difference that is above 0 if the first procedure is better.

    The first of these that holds:

    - ``"superior"``: the interval is above 0.
    - ``"non-inferior"``: it is above ``-margin``. It may lie below 0, where the first is shown to be worse by less than
      what was agreed to matter.
    - ``"inferior"``: it is below 0, and reaches to ``-margin`` or beyond: a loss is shown, and not shown to be small.
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
    check_margin(margin)
    if not low <= high:
        raise ValueError(f"expected an interval with low <= high, got {low} to {high}")
    if low > 0:
        return "superior"
    if low > -margin:
        return "non-inferior"
    return "inferior" if high < 0 else "not decided"


def check_margin(margin: float) -> None:
    """Raise a ValueError unless a margin is a finite number of at least 0."""
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin: expected a number of at least 0, got {margin}")
