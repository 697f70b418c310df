# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Compare procedures patient by patient, over repeats of their training, and let the word follow the interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from monai_essa.evaluation.comparison import (
    DESCRIPTION,
    LEVEL,
    NON_INFERIORITY,
    Comparison,
    Primary,
    check_margin,
    verdict_word,
)
from monai_essa.evaluation.repeats import (
    LEAST_PATIENTS,
    LEAST_REPEATS,
    ArmScores,
    interval_within,
    mean_interval,
    patients_to_decide,
)

__all__ = ["Verdict", "arm_row", "compare_arms", "reach_verdict"]

_VERSION = 1  # of the JSON


@dataclass(frozen=True)
class Verdict:
    """The comparisons of a study with what they rest on.

    Attributes:
        protocol: what was fixed before: plain values.
        arms: of each procedure ``name``, ``mean``, ``low`` and ``high`` (its own 95 % interval) and ``n``, how many
            patients have a defined score.
        comparisons: the primary ones, then those that only describe.
        exported: which procedure a study hands over, and how good it is said to be; None if nothing is handed over.
        helps: whether self-supervised adaptation helps; None if that was not asked or could not be decided.
        sentence: all of it in words; empty if a comparison says it.
        left_out: why procedures of the plan are not among the arms, by name.
        efficiency: the same scores with other numbers of labels: of each ``labels``, ``arms`` and ``comparisons``.
    """

    protocol: Mapping[str, Any]
    arms: Sequence[Mapping[str, Any]]
    comparisons: Sequence[Comparison] = field(default_factory=list)
    exported: Mapping[str, Any] | None = None
    helps: bool | None = None
    sentence: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    efficiency: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def primary(self) -> list[Comparison]:
        """Return the comparisons that are decided."""
        return [each for each in self.comparisons if each.question != DESCRIPTION]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is not a number is None.

        Returns:
            ``version`` of this form, ``protocol``, ``arms``, ``comparisons``, ``exported``, ``helps``, ``sentence`` and
            ``left_out``. The same scores give the same values: no clock, no path, no name of a machine or a patient.
        """
        return {
            "version": _VERSION,
            "protocol": _plain(dict(self.protocol)),
            "arms": [_plain(dict(arm)) for arm in self.arms],
            "comparisons": [
                _plain(asdict(each) | {"patients": len(each.differences) or None, "word": each.word or None})
                for each in self.comparisons
            ],
            "exported": None if self.exported is None else _plain(dict(self.exported)),
            "helps": self.helps,
            "sentence": self.sentence,
            "left_out": _plain(dict(self.left_out)),
        } | ({"efficiency": _plain(list(self.efficiency))} if self.efficiency else {})


def compare_arms(a: ArmScores, b: ArmScores, margin: float = 0.0, comparisons: int = 1) -> Comparison:
    r"""Estimate the mean paired difference of two procedures on a new patient of this site, and say what it shows.

    With :math:`d_{r,i}` the difference in repeat r and patient i, its mean has the interval of
    :func:`~monai_essa.evaluation.repeats.mean_interval` at the level :math:`1 - 0.05 / m` for m primary comparisons, so
    that a word follows from its interval. There is no verdict, and ``reason`` says why, with fewer than 6 patients,
    which have no interval either, with fewer than 3 repeats, or if the differences do not vary at all. In simulations
    of five repeats with effects of patients, repeats and folds, .94 to .97 of the intervals covered the truth.

    Args:
        a: the first procedure.
        b: the second, on the same patients in any order, with the same repeats: repeat r of both has the same draw of
            the training data where possible.
        margin: how much worse the first may be and still be non-inferior.
        comparisons: how many primary comparisons there are.

    Returns:
        The comparison, on the patients whose scores are defined in every repeat of both.

    Raises:
        ValueError: if patients, repeats or direction differ, the margin is negative, or there is no comparison.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> names = [f"p{number}" for number in range(20)]
        >>> plain = ArmScores("plain", 0.7 + 0.05 * rng.normal(size=(5, 20)), names)
        >>> adapted = ArmScores("adapted", plain.scores + 0.1 + 0.05 * rng.normal(size=(5, 20)), names)
        >>> compare_arms(adapted, plain).word
        'superior'
    """
    check_margin(margin)
    if comparisons < 1:
        raise ValueError(f"comparisons: expected at least 1, got {comparisons}")
    _check_alike(a, b)
    place = {name: column for column, name in enumerate(b.patients)}
    other = b.scores[:, [place[name] for name in a.patients]]
    differences = np.asarray(a.scores - other if a.higher_is_better else other - a.scores, dtype=float)  # (R, N)
    defined = np.isfinite(a.scores).all(axis=0) & np.isfinite(other).all(axis=0)
    return _compared((a.name, b.name), differences[:, defined], int((~defined).sum()), margin, 1 - 0.05 / comparisons)


def reach_verdict(
    arms: Sequence[ArmScores],
    margin: float = 0.0,
    protocol: Mapping[str, Any] | None = None,
    primaries: Sequence[Primary] | None = None,
    described: Sequence[tuple[str, str]] | None = None,
    provisional: str = "",
    further: int = 0,
) -> Verdict:
    """Decide the primary comparisons, and describe others.

    Args:
        arms: at least two, of different names.
        margin: as for :func:`compare_arms`; a question of superiority has none.
        protocol: what else was fixed before, as plain values; the margin, the level of the intervals, the number of
            primary comparisons and of repeats, and the direction of the scores are added.
        primaries: what is decided; default: the first procedure against each other one, each for non-inferiority. One
            whose procedure is not among the arms, say because its training failed, is left out, and still counts for
            the level of the others.
        described: further pairs of procedures; default: the first procedure with each other one. A pair that is a
            primary comparison, or lacks a procedure, is left out.
        provisional: why no comparison has a verdict; empty if they have.
        further: how many primary comparisons of another metric the same study decides.

    Returns:
        The verdict; the intervals of the primary comparisons hold together at 95 %. A comparison that only describes
        has an interval of its own at 95 %, and no word.

    Raises:
        ValueError: as :func:`compare_arms`, or if there is one arm only, or a name or a comparison comes twice.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> names = [f"p{number}" for number in range(20)]
        >>> arms = [ArmScores(name, 0.7 + 0.05 * rng.normal(size=(5, 20)), names) for name in ("ssa", "none", "full")]
        >>> verdict = reach_verdict(arms, 0.02, primaries=[Primary("ssa", "none", "superiority")])
        >>> [(each.b, each.question, each.word) for each in verdict.comparisons]
        [('none', 'superiority', 'not decided'), ('full', 'description', '')]
    """
    by_name = {arm.name: arm for arm in arms}
    if len(arms) < 2 or len(by_name) < len(arms):
        found = ", ".join(arm.name for arm in arms) or "none"
        raise ValueError(f"expected at least two arms of different names, got {found}")
    first, *others = arms
    asked = [Primary(first.name, other.name) for other in others] if primaries is None else list(primaries)
    pairs = {(each.a, each.b) for each in asked}
    if len(pairs) < len(asked):
        raise ValueError("a primary comparison comes twice; expected each pair of procedures once")
    count = len(asked) + further
    fixed = {
        "margin": margin,
        "comparisons": count,
        "level": 1 - 0.05 / max(1, count),
        "repeats": len(first.scores),
        "higher_is_better": first.higher_is_better,
    }
    there = [each for each in asked if each.a in by_name and each.b in by_name]
    decided = [_decided(by_name[each.a], by_name[each.b], each, margin, count) for each in there]
    decided = [_withheld(each, f"provisional: {provisional}") if provisional else each for each in decided]
    shown = [(first.name, other.name) for other in others] if described is None else described
    shown = [pair for pair in shown if pair not in pairs and by_name.keys() >= set(pair)]
    descriptions = [_described(by_name[a], by_name[b], margin) for a, b in shown]
    return Verdict(dict(protocol or {}) | fixed, [arm_row(arm) for arm in arms], [*decided, *descriptions])


def arm_row(arm: ArmScores) -> dict[str, Any]:
    """Return ``name``, ``mean``, ``low`` and ``high`` of the 95 % interval, and ``n`` patients of one procedure.

    What cannot be told, such as an interval of fewer than 6 patients, is NaN.
    """
    scores = arm.scores[:, np.isfinite(arm.scores).all(axis=0)].astype(float)
    row = {"name": arm.name, "mean": math.nan, "low": math.nan, "high": math.nan, "n": scores.shape[1]}
    if not row["n"]:
        return row
    row["mean"] = float(scores.mean())
    if scores.shape[1] >= LEAST_PATIENTS:
        half = float(mean_interval(scores, LEVEL)[1])
        row |= dict(zip(("low", "high"), interval_within(arm.bounds, row["mean"], half), strict=True))
    return row


def _decided(a: ArmScores, b: ArmScores, primary: Primary, margin: float, comparisons: int) -> Comparison:
    own = margin if primary.question == NON_INFERIORITY else 0.0
    return replace(compare_arms(a, b, own, comparisons), question=primary.question)


def _described(a: ArmScores, b: ArmScores, margin: float) -> Comparison:
    found = replace(compare_arms(a, b, margin), question=DESCRIPTION)
    return found if found.reason else _withheld(found, "not a primary comparison")


def _withheld(found: Comparison, reason: str) -> Comparison:
    return replace(found, word="", reason=reason, patients_needed=None)


def _compared(
    names: tuple[str, str], differences: np.ndarray, undefined: int, margin: float, level: float
) -> Comparison:
    """Compare by differences (R, N) that are all defined."""
    repeats, patients = differences.shape
    by_patient = tuple(map(float, differences.mean(axis=0)))
    known = {"margin": margin, "level": level, "repeats": repeats, "undefined": undefined, "differences": by_patient}
    estimate = float(differences.mean()) if patients else math.nan
    if patients < LEAST_PATIENTS:
        reason = f"{patients} patients with scores in both, and a verdict needs {LEAST_PATIENTS}"
        return Comparison(*names, estimate, reason=reason, **known)
    half = float(mean_interval(differences, level)[1])
    if math.isnan(half):
        reason = "the differences do not vary between patients and repeats"
        return Comparison(*names, estimate, reason=reason, **known)
    low, high = estimate - half, estimate + half
    found = {"low": low, "high": high, "decidable": half} | known
    if repeats < LEAST_REPEATS:
        reason = f"provisional: {_repeats(repeats)}, and a verdict needs {LEAST_REPEATS}"
        return Comparison(*names, estimate, reason=reason, **found)
    word = verdict_word(low, high, margin)
    needed = patients_to_decide(differences, _nearest(estimate, margin), level) if word == "not decided" else None
    return Comparison(*names, estimate, word=word, patients_needed=needed, **found)


def _nearest(estimate: float, margin: float) -> float:
    """Return the widest half width with which some word would be decided around an estimate."""
    return max(abs(estimate), estimate + margin)


def _repeats(number: int) -> str:
    return f"{number} repeat{'' if number == 1 else 's'} of the training"


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
