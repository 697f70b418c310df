# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The choice follows its rule, and what is said of the chosen procedure is not raised by the choice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monai_essa.evaluation.choice import choose_arm, name_in_advance
from monai_essa.evaluation.repeats import ArmScores, mean_interval
from monai_essa.evaluation.verdict import arm_row


def arms(gaps: list[float], patients: int = 30, repeats: int = 5, seed: int = 0, sign: float = 1.0) -> list[ArmScores]:
    """Procedures on the same patients, whose true means are 0.7 and the gaps."""
    rng = np.random.default_rng(seed)
    shape = (len(gaps), repeats, patients)
    patient = 0.05 * rng.normal(size=patients)
    own = 0.03 * rng.normal(size=(len(gaps), 1, patients)) + 0.01 * rng.normal(size=(len(gaps), repeats, 1))
    scores = 0.7 + sign * np.array(gaps)[:, None, None] + patient + own + 0.02 * rng.normal(size=shape)
    names = [f"p{number}" for number in range(patients)]
    return [ArmScores(str(place), each, names, sign > 0) for place, each in enumerate(scores)]


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["higher is better", "lower is better"])
@pytest.mark.parametrize(
    ("gaps", "margin", "name", "reason"),
    [
        ([0.0, 0.1], 0.02, "1", "it has the best mean"),
        ([0.1, 0.0], 0.02, "0", "it has the best mean"),
        ([0.0, 0.05, 0.0], 0.1, "0", "it is simpler than '1'"),
        ([0.0, 0.2, 0.21], 0.05, "1", "it is simpler than '2'"),
    ],
)
def test_the_simplest_that_is_shown_non_inferior_is_chosen(
    gaps: list[float], margin: float, name: str, reason: str, sign: float
) -> None:
    found = choose_arm(arms(gaps, sign=sign), margin)
    assert found.name == name
    assert found.reason.startswith(reason)
    assert found.low < found.mean < found.high


@pytest.mark.parametrize(("patients", "repeats"), [(5, 5), (30, 2)])
def test_where_nothing_is_shown_the_best_mean_is_chosen(patients: int, repeats: int) -> None:
    found = choose_arm(arms([0.0, 0.05], patients, repeats), margin=0.5)
    assert (found.name, found.reason) == ("1", "it has the best mean")
    assert math.isnan(found.low) is (patients < 6)


def test_equal_scores_choose_the_simplest() -> None:
    (one,) = arms([0.0])
    found = choose_arm([one, ArmScores("copy", one.scores, one.patients)], margin=0.02)
    assert found.name == "0" and found.uncorrected == pytest.approx(float(one.scores.mean()))


def test_a_single_candidate_needs_no_correction() -> None:
    (one,) = arms([0.0])
    found = choose_arm([one], margin=0.02)
    mean, half = mean_interval(one.scores)
    expected = (float(mean), float(mean), float(mean - half), float(mean + half))
    assert (found.mean, found.uncorrected, found.low, found.high) == pytest.approx(expected)


def test_the_correction_is_the_same_again() -> None:
    assert choose_arm(arms([0.0, 0.0, 0.0]), 0.02) == choose_arm(arms([0.0, 0.0, 0.0]), 0.02)


def test_undefined_scores_leave() -> None:
    candidates = arms([0.0, 0.1])
    candidates[0].scores[2, 3] = math.nan
    kept = [ArmScores(each.name, np.delete(each.scores, 3, axis=1), range(29)) for each in candidates]  # type: ignore[arg-type]
    assert choose_arm(candidates, 0.02) == choose_arm(kept, 0.02)
    candidates[1].scores[0, :] = math.nan
    found = choose_arm(candidates, 0.02)
    assert found.name == "0" and math.isnan(found.mean)


@pytest.mark.parametrize("patients", [10, 30])
def test_the_corrected_mean_is_unbiased_where_the_mean_of_the_winner_is_too_high(patients: int) -> None:
    """Six procedures that are equally good: the best of six means is luck."""
    found = [choose_arm(arms([0.0] * 6, patients, seed=seed), margin=0.0) for seed in range(60)]
    naive = np.array([each.uncorrected for each in found]) - 0.7
    corrected = np.array([each.mean for each in found]) - 0.7
    error = corrected.std(ddof=1) / math.sqrt(len(found))
    assert naive.mean() > 3 * naive.std(ddof=1) / math.sqrt(len(found))
    assert abs(corrected.mean()) < 2.5 * error and abs(corrected.mean()) < naive.mean() / 3


def test_a_clear_winner_is_hardly_corrected() -> None:
    found = choose_arm(arms([0.0, 0.0, 0.2]), margin=0.02)
    assert found.name == "2" and found.mean == pytest.approx(found.uncorrected, abs=0.003)


def test_the_arm_fixed_in_advance_is_taken_whatever_its_score() -> None:
    candidates = arms([0.0, 0.1])
    found = name_in_advance(candidates, ["gone", "0", "1"])
    assert (found.name, found.mean) == ("0", pytest.approx(float(candidates[0].scores.mean())))
    assert found.reason == "it was fixed before the scores were seen"
    with pytest.raises(ValueError, match="none of gone has scores"):
        name_in_advance(candidates, ["gone"])


def test_candidates_of_other_patients_are_refused() -> None:
    one, two = arms([0.0, 0.1])
    for other in (ArmScores("b", two.scores, [*two.patients[:-1], "x"]), ArmScores("b", two.scores[:3], two.patients)):
        with pytest.raises(ValueError, match="the same patients and repeats"):
            choose_arm([one, other], 0.02)
    with pytest.raises(ValueError, match="the same patients and repeats"):
        choose_arm([], 0.02)


def test_an_interval_ends_where_the_score_does() -> None:
    """Three repeats that differ as much as here have an interval of a Dice below 0 and above 1."""
    scores = np.array([[0.0], [0.5], [1.0]]) * np.linspace(0.8, 1.0, 8)
    names = [f"p{number}" for number in range(8)]
    free, bounded = (ArmScores("a", scores, names, bounds=ends) for ends in ((-math.inf, math.inf), (0.0, 1.0)))
    for choose in (lambda arm: choose_arm([arm], 0.0), lambda arm: name_in_advance([arm], ["a"])):
        wide, cut = choose(free), choose(bounded)
        assert wide.low < 0 and wide.high > 1
        assert (cut.mean, cut.low, cut.high) == (wide.mean, 0.0, 1.0)
    assert (arm_row(bounded)["low"], arm_row(bounded)["high"]) == (0.0, 1.0)
