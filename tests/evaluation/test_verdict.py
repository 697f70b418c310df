# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A verdict follows its interval, is withheld where too little was seen, and says what would decide."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest

from monai_essa.evaluation.comparison import Comparison, Primary, verdict_word
from monai_essa.evaluation.repeats import ArmScores, mean_interval, patients_to_decide
from monai_essa.evaluation.verdict import compare_arms, reach_verdict


def names(patients: int) -> list[str]:
    return [f"p{number:02}" for number in range(patients)]


def arm(name: str, scores: np.ndarray, higher_is_better: bool = True) -> ArmScores:
    return ArmScores(name, scores, names(scores.shape[1]), higher_is_better)


def two_arms(
    truth: float, patients: int = 20, repeats: int = 5, seed: int = 0, sign: int = 1
) -> tuple[ArmScores, ArmScores]:
    """Two procedures on the same patients, who differ more than the procedures do."""
    rng = np.random.default_rng(seed)
    patient = 0.7 + 0.1 * rng.normal(size=patients)
    noise = 0.02 * rng.normal(size=(2, repeats, patients)) + 0.01 * rng.normal(size=(2, repeats, 1))
    first, second = patient + noise[0] + sign * truth, patient + noise[1]
    return arm("a", first, sign > 0), arm("b", second, sign > 0)


ENDS = (-0.05, -0.03, -0.02, -0.01, 0.0, 0.01, 0.03)


@pytest.mark.parametrize("margin", [0.0, 0.02])
@pytest.mark.parametrize(("low", "high"), list(itertools.combinations_with_replacement(ENDS, 2)))
def test_the_word_says_what_the_interval_shows(low: float, high: float, margin: float) -> None:
    word = verdict_word(low, high, margin)
    excluded = {"no gain": low > 0, "a loss that matters": low > -margin, "no loss": high < 0}
    if word == "superior":
        assert excluded["no gain"]
    elif word == "non-inferior":
        assert excluded["a loss that matters"] and not excluded["no gain"]
    elif word == "inferior":
        assert excluded["no loss"] and not excluded["a loss that matters"]
    else:
        assert word == "not decided" and not any(excluded.values())


def test_the_words_of_each_place_of_an_interval() -> None:
    """From the right to the left of 0 and of the margin, as in the figure of CONSORT's extension to non-inferiority."""
    places = [
        (0.01, 0.05),
        (-0.01, 0.05),
        (-0.01, 0.01),
        (-0.015, -0.005),
        (-0.03, 0.01),
        (-0.03, -0.01),
        (-0.05, -0.03),
    ]
    words = [verdict_word(low, high, 0.02) for low, high in places]
    assert words == ["superior", *["non-inferior"] * 3, "not decided", "inferior", "inferior"]


@pytest.mark.parametrize("margin", [-0.01, math.nan, math.inf])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin: expected a number of at least 0"):
        verdict_word(-1.0, 1.0, margin)
    with pytest.raises(ValueError, match="margin: expected a number of at least 0"):
        compare_arms(*two_arms(0.0, patients=3), margin=margin)


@pytest.mark.parametrize("ends", [(1.0, 0.0), (math.nan, 1.0)])
def test_an_interval_that_is_none_has_no_word(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="low <= high"):
        verdict_word(*ends)


@pytest.mark.parametrize("sign", [1, -1], ids=["higher is better", "lower is better"])
@pytest.mark.parametrize(("truth", "word"), [(0.05, "superior"), (-0.05, "inferior"), (0.0, "non-inferior")])
def test_a_planted_difference_is_found(truth: float, word: str, sign: int) -> None:
    found = compare_arms(*two_arms(truth, sign=sign), margin=0.02)
    assert (found.word, found.reason) == (word, "")
    assert found.low <= truth <= found.high
    assert found.estimate == pytest.approx(truth, abs=0.02)


def test_a_planted_null_is_rarely_called_different() -> None:
    words = [compare_arms(*two_arms(0.0, seed=seed)).word for seed in range(300)]
    assert words.count("superior") + words.count("inferior") <= 0.065 * 300


def test_the_numbers_are_those_of_the_interval_of_the_differences() -> None:
    a, b = two_arms(0.01)
    found = compare_arms(a, b, margin=0.02, comparisons=2)
    mean, half = mean_interval(a.scores - b.scores, level=0.975)
    assert (found.estimate, found.decidable) == pytest.approx((float(mean), float(half)))
    assert (found.low, found.high, found.level) == pytest.approx((float(mean - half), float(mean + half), 0.975))
    assert found.differences == pytest.approx((a.scores - b.scores).mean(axis=0))


def test_more_comparisons_widen_the_interval() -> None:
    widths = [compare_arms(*two_arms(0.0), comparisons=count).decidable for count in (1, 2, 5)]
    assert widths == sorted(widths) and widths[0] < widths[2]
    with pytest.raises(ValueError, match="comparisons: expected at least 1, got 0"):
        compare_arms(*two_arms(0.0), comparisons=0)


def test_the_other_order_gives_the_other_sign() -> None:
    a, b = two_arms(0.05)
    one, other = compare_arms(a, b), compare_arms(b, a)
    assert (one.estimate, one.low, one.high) == pytest.approx((-other.estimate, -other.high, -other.low))
    assert (one.word, other.word) == ("superior", "inferior")
    assert str(one).startswith("a is superior to b: ahead by 0.0") and "b is inferior to a: behind by 0.0" in str(other)


@pytest.mark.parametrize("patients", [1, 2, 5])
def test_under_six_patients_there_are_differences_and_no_verdict(patients: int) -> None:
    a, b = two_arms(0.5, patients)
    found = compare_arms(a, b, margin=0.02)
    assert found.word == "" and math.isnan(found.low) and math.isnan(found.decidable)
    assert found.reason == f"{patients} patients with scores in both, and a verdict needs 6"
    assert found.differences == pytest.approx((a.scores - b.scores).mean(axis=0))
    assert str(found).endswith(f"(by patient: {', '.join(f'{value:+.4f}' for value in found.differences)})")
    assert compare_arms(*two_arms(0.5, patients=6)).word == "superior"


@pytest.mark.parametrize(("repeats", "said"), [(1, "1 repeat of"), (2, "2 repeats of")])
def test_under_three_repeats_the_result_is_provisional(repeats: int, said: str) -> None:
    found = compare_arms(*two_arms(0.5, repeats=repeats))
    assert found.word == "" and found.low > 0.3
    assert found.reason == f"provisional: {said} the training, and a verdict needs 3"
    assert "no verdict (provisional" in str(found)
    assert compare_arms(*two_arms(0.5, repeats=3)).word == "superior"


def test_undefined_scores_leave_and_are_counted_and_are_not_zero() -> None:
    a, b = two_arms(0.05)
    kept = compare_arms(arm("a", a.scores[:, 3:]), arm("b", b.scores[:, 3:]))
    a.scores[1, 0], b.scores[2, 1], a.scores[0, 2] = math.nan, math.inf, -math.inf
    found = compare_arms(a, b)
    assert (found.undefined, len(found.differences)) == (3, 17)
    assert (found.estimate, found.low, found.high) == pytest.approx((kept.estimate, kept.low, kept.high))


def test_no_defined_score_is_no_estimate() -> None:
    a, b = two_arms(0.05, patients=8)
    found = reach_verdict([arm("a", np.full_like(a.scores, math.nan)), b])
    assert math.isnan(found.comparisons[0].estimate) and found.comparisons[0].undefined == 8
    assert (
        str(found.comparisons[0]) == "a against b: no verdict (0 patients with scores in both, and a verdict needs 6)"
    )
    assert (found.as_dict()["arms"][0]["mean"], found.as_dict()["arms"][0]["n"]) == (None, 0)


def test_patients_are_paired_by_name() -> None:
    a, b = two_arms(0.05)
    order = np.random.default_rng(1).permutation(20)
    turned = ArmScores("b", b.scores[:, order], [b.patients[place] for place in order])
    assert compare_arms(a, turned) == compare_arms(a, b)


def test_differences_that_never_vary_have_no_verdict() -> None:
    a, _ = two_arms(0.0)
    found = compare_arms(a, ArmScores("b", a.scores - 0.1, a.patients), margin=0.02)
    assert (found.word, found.reason) == ("", "the differences do not vary between patients and repeats")
    assert found.estimate == pytest.approx(0.1) and math.isnan(found.low)
    assert str(found).endswith(": ahead by 0.1000 on average")


def test_the_patients_that_are_said_to_decide_do() -> None:
    """At the same variances: each of the patients comes as many times as needed."""
    a, b = two_arms(0.0, patients=12)
    loud = arm("a", a.scores + 0.3 * np.random.default_rng(0).permutation(np.linspace(-1, 1, 12)))
    found = compare_arms(loud, b, margin=0.1)
    assert found.word == "not decided" and found.patients_needed is not None and found.patients_needed > 12
    times = -(-found.patients_needed // 12)
    more = compare_arms(arm("a", np.tile(loud.scores, times)), arm("b", np.tile(b.scores, times)), margin=0.1)
    assert more.word != "not decided"
    assert str(found).endswith(f"about {found.patients_needed} patients would decide it")


@pytest.mark.parametrize(
    ("estimate", "distance"),
    [(0.03, 0.13), (-0.02, 0.08), (-0.09, 0.09), (-0.2, 0.2)],
    ids=["to the margin", "still to the margin", "to 0 from within", "to 0 from beyond"],
)
def test_the_patients_are_counted_to_the_bound_that_is_reached_first(estimate: float, distance: float) -> None:
    rng = np.random.default_rng(2)
    spread = rng.normal(size=12) + 0.02 * rng.normal(size=(5, 12))
    b = arm("b", np.zeros((5, 12)))
    found = compare_arms(arm("a", spread - spread.mean() + estimate), b, margin=0.1)
    assert found.word == "not decided"
    assert found.patients_needed == patients_to_decide(spread, distance, 0.95)


def test_repeats_that_spread_too_far_are_decided_by_no_number_of_patients() -> None:
    a, b = two_arms(0.0)
    found = compare_arms(arm("a", a.scores + np.array([[1.0], [-1.0], [2.0], [-2.0], [0.1]])), b, margin=0.02)
    assert (found.word, found.patients_needed) == ("not decided", None)
    assert str(found).endswith("no number of patients would decide it with repeats that vary as these do")


@pytest.mark.parametrize("truth", [0.05, 0.0, -0.05])
def test_every_sentence_names_the_smallest_decidable_difference(truth: float) -> None:
    found = compare_arms(*two_arms(truth), margin=0.02)
    assert f"the smallest difference decidable here is {found.decidable:.4f}" in str(found)
    assert f"95 % interval {found.low:+.4f} to {found.high:+.4f}" in str(found)


def test_the_first_arm_is_compared_with_each_other() -> None:
    a, b = two_arms(0.05)
    verdict = reach_verdict([a, b, arm("c", b.scores - 0.2 * np.linspace(0, 1, 20))], 0.02, {"metric": "Dice"})
    assert [(each.a, each.b, each.level) for each in verdict.comparisons] == [("a", "b", 0.975), ("a", "c", 0.975)]
    assert [(row["name"], row["n"]) for row in verdict.arms] == [("a", 20), ("b", 20), ("c", 20)]
    mean, half = mean_interval(b.scores)
    row = verdict.arms[1]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(
        (float(mean), float(mean - half), float(mean + half))
    )
    assert verdict.protocol == {"metric": "Dice", "margin": 0.02, "comparisons": 2, "level": 0.975, "repeats": 5} | {
        "higher_is_better": True
    }


def three_arms(truth: float = 0.05) -> list[ArmScores]:
    a, b = two_arms(truth)
    return [a, b, arm("c", b.scores + 0.01 * np.random.default_rng(9).normal(size=b.scores.shape))]


def test_primaries_are_decided_and_all_else_is_described() -> None:
    arms = three_arms()
    asked = [Primary("a", "b", "superiority"), Primary("b", "c", "non-inferiority")]
    verdict = reach_verdict(arms, 0.02, primaries=asked)
    found = [(each.a, each.b, each.question, each.word, each.level, each.margin) for each in verdict.comparisons]
    assert found == [
        ("a", "b", "superiority", "superior", 0.975, 0.0),
        ("b", "c", "non-inferiority", "non-inferior", 0.975, 0.02),
        ("a", "c", "description", "", 0.95, 0.02),
    ]
    described = verdict.comparisons[2]
    assert described.low > 0 and described.reason == "not a primary comparison"
    assert str(described) == (
        f"a against c, for description: ahead by {described.estimate:.4f} on average, 95 % interval "
        f"{described.low:+.4f} to {described.high:+.4f}"
    )


def test_described_pairs_can_be_named() -> None:
    pairs = [("c", "b"), ("a", "b"), ("c", "gone")]
    verdict = reach_verdict(three_arms(), 0.02, primaries=[Primary("a", "b")], described=pairs)
    assert [(each.a, each.b, each.question) for each in verdict.comparisons] == [
        ("a", "b", "non-inferiority"),
        ("c", "b", "description"),
    ]


def test_superiority_knows_no_margin() -> None:
    a, b = two_arms(0.0)
    (question,) = reach_verdict([a, b], 0.1, primaries=[Primary("a", "b", "superiority")]).comparisons
    (other,) = reach_verdict([a, b], 0.1, primaries=[Primary("a", "b", "non-inferiority")]).comparisons
    assert (question.word, other.word) == ("not decided", "non-inferior")
    assert (question.low, question.high) == (other.low, other.high)


def test_a_primary_of_a_missing_arm_still_counts_for_the_level() -> None:
    asked = [Primary("a", "b", "superiority"), Primary("tpp", "b", "superiority")]
    verdict = reach_verdict(three_arms(), 0.02, primaries=asked)
    assert [(each.a, each.b, each.level) for each in verdict.comparisons] == [("a", "b", 0.975), ("a", "c", 0.95)]
    assert verdict.protocol["comparisons"] == 2


def test_a_provisional_verdict_has_no_word() -> None:
    verdict = reach_verdict(three_arms(), 0.02, provisional="a preset")
    assert [(each.word, each.reason) for each in verdict.comparisons] == [("", "provisional: a preset")] * 2
    assert str(verdict.comparisons[0]).startswith("a against b: no verdict (provisional: a preset): ahead by 0.0")
    assert all(each.low > 0 for each in verdict.comparisons)


@pytest.mark.parametrize(
    ("asked", "message"),
    [(("a", "b", "equality"), "expected one of 'superiority', 'non-inferiority'"), (("a", "a"), "got 'a' twice")],
)
def test_a_primary_that_is_none_is_refused(asked: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Primary(*asked)
    with pytest.raises(ValueError, match="a primary comparison comes twice"):
        reach_verdict(three_arms(), primaries=[Primary("a", "b"), Primary("a", "b", "superiority")])


def test_the_record_is_plain_json_and_the_same_again() -> None:
    def record() -> dict[str, Any]:
        a, b = two_arms(0.0, patients=8)
        a.scores[0, 0] = math.nan
        return reach_verdict([a, b, arm("c", b.scores)], 0.02, {"metric": "Dice"}).as_dict()

    text = json.dumps(record(), allow_nan=False)
    assert json.loads(text) == record()
    assert set(record()) == {"version", "protocol", "arms", "comparisons"} | {
        "exported",
        "helps",
        "sentence",
        "left_out",
    }
    first, second = record()["comparisons"]
    assert (first["undefined"], first["patients"], second["b"]) == (1, 7, "c")
    few = reach_verdict([*two_arms(0.1, patients=3)]).as_dict()["comparisons"][0]
    assert (few["word"], few["low"], few["patients"]) == (None, None, 3)


def test_no_patient_is_named_in_the_record() -> None:
    a, b = two_arms(0.0, patients=8)
    assert "p03" not in json.dumps(reach_verdict([a, b]).as_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients": [*names(7), "p99"]}, "'b' has no score of patient 'p07', which 'a' has"),
        ({"patients": [*names(8), "p99"], "scores": np.zeros((5, 9))}, "'a' has no score of patient 'p99'"),
        ({"scores": np.zeros((4, 8))}, "'a' has 5 repeats of the training, 'b' 4"),
        ({"higher_is_better": False}, "a higher score is better in only one of 'a' and 'b'"),
    ],
)
def test_arms_that_do_not_compare_are_refused(change: dict[str, Any], message: str) -> None:
    a, b = two_arms(0.0, patients=8)
    other = {"scores": b.scores, "patients": b.patients, "higher_is_better": True} | change
    with pytest.raises(ValueError, match=message):
        compare_arms(a, ArmScores("b", **other))


@pytest.mark.parametrize(
    ("scores", "patients", "message"),
    [
        (np.zeros(3), names(3), r"expected \(R, 3\) scores"),
        (np.zeros((2, 4)), names(3), r"expected \(R, 3\) scores, a column for each patient, got shape \(2, 4\)"),
        (np.zeros((0, 3)), names(3), r"got shape \(0, 3\)"),
        (np.zeros((2, 3)), ["p0", "p1", "p0"], "patient 'p0' comes twice"),
    ],
)
def test_scores_of_another_form_are_refused(scores: np.ndarray, patients: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArmScores("a", scores, patients)


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_arm_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="at least two arms of different names"):
        reach_verdict([*two_arms(0.0)][:count])


def test_two_arms_of_one_name_are_refused() -> None:
    a, b = two_arms(0.0)
    with pytest.raises(ValueError, match="different names, got a, a"):
        reach_verdict([a, ArmScores("a", b.scores, b.patients)])


def test_a_comparison_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Comparison("a", "b", 0.0).word = "superior"  # type: ignore[misc]
