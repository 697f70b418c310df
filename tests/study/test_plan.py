# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a study drops where the hours are short, in which order, and when it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_essa.planning.choices import Computer
from monai_essa.planning.site import ImageFacts
from monai_essa.study import plan as plan_module
from monai_essa.study.arms import FLOORS
from monai_essa.study.hours import Memory, Work
from monai_essa.study.plan import draft_study
from monai_essa.study.scans import SiteScans
from monai_essa.study.splits import SplitRequest, partition
from monai_essa.study.stages import Timings
from monai_essa.study.terms.draft import Draft, Surroundings
from monai_essa.study.terms.partition import Scan
from monai_essa.study.terms.request import StudyRequest

LABELS = {"background": 0, "liver": 1}
FACTS = ImageFacts(20, (96.0,) * 3, (1.0,) * 3, 1, "mr", "dark")
COMPUTER = Computer(16 * 10**9, "test", "cpu", 64 * 10**9, 10**12)
ARMS = ["ssa", "no_ssa", "scratch", "full", "no_ssa_longer", "ssa_third", "no_ssa_third", "head", "full_ssa"]


@pytest.fixture
def draft(monkeypatch: pytest.MonkeyPatch):
    """Drafts a study on a made-up computer: the smallest network takes 0.1 s a step, each larger one ten times that."""
    work = {"ViT-mini": 1, "ViT-Ti": 10, "ViT-S": 100, "ViT-B": 1000}
    timings = Timings(1.0, 0.01, 0.1, dict.fromkeys(("base", "ssa", "peft", "full", "scratch"), 0.1))
    monkeypatch.setattr(plan_module, "measure", lambda design, labelled: timings)
    monkeypatch.setattr(plan_module, "fitting_sizes", lambda design, budget: (_sized(design), Memory(10**9, 10**7)))
    monkeypatch.setattr(
        plan_module, "network_work", lambda design: Work(*[work[design.network.name.partition(",")[0]]] * 2)
    )

    def make(hours: float, labelled: int = 70, count: int | None = 10, further=(), **request: object) -> Draft:
        scans = [Scan(f"/{number}.nii", f"/{number}_seg.nii", f"p{number:03d}") for number in range(labelled)]
        site = SiteScans(scans, None, LABELS, "segmentation", {}, (), True)
        parts = partition(scans, SplitRequest(label_count=count, further=further))
        around = Surroundings(site, parts, FACTS, COMPUTER, Path("/study"))
        return draft_study(StudyRequest(hours=hours, **request), around)

    return make


def _sized(design):
    return plan_module.replace(design, sizes={**design.sizes, **plan_module.default_sizes(design)})


def names(draft: Draft) -> list[str]:
    return [arm.name for arm in draft.arms]


def test_with_many_hours_every_arm_stays_and_the_network_is_large(draft) -> None:
    found = draft(2000)
    assert names(found) == ARMS
    assert found.design.network.name.startswith("ViT-B") and len(found.parts.repeats) == 5
    assert [each["name"] for each in found.dropped] == ["tpp"]


def test_the_next_larger_network_is_refused_with_the_hours_that_it_would_take(draft) -> None:
    found = draft(8)
    assert found.design.network.name.startswith("ViT-Ti")
    assert found.notes[0].startswith("ViT-S, 96 voxels is refused: 5 repeats of SSA, then PEFT, PEFT, from scratch")


def test_arms_are_dropped_from_the_end_then_repeats_then_steps(draft) -> None:
    seen = []
    for hours in (0.9, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.08, 0.05):
        found = draft(hours)
        steps = found.design.steps["train"]
        assert names(found) == ARMS[: len(found.arms)]
        seen.append((len(found.arms), len(found.parts.repeats), min(steps, 240)))
    assert seen == sorted(seen, reverse=True)
    assert all(arms == 2 for arms, repeats, _ in seen if repeats < 5)
    assert all(repeats <= 3 for _, repeats, steps in seen if steps < 240)


def test_the_two_arms_that_check_the_rates_are_there_together_or_not_at_all(draft) -> None:
    counts = {sum(name.endswith("_third") for name in names(draft(hours))) for hours in (0.2, 0.3, 0.4, 0.5, 0.6, 0.9)}
    assert counts <= {0, 2}


def test_a_single_repeat_is_provisional(draft) -> None:
    found = draft(0.03)
    assert len(found.parts.repeats) == 1
    assert found.provisional == "1 repeat: the hours are too short for the 3 that a verdict needs"
    assert draft(1).provisional is None


def test_steps_in_which_no_network_learns_are_provisional(draft) -> None:
    for hours in (0.03, 0.05, 0.08, 0.1, 0.15, 0.3):
        found = draft(hours)
        few = len(found.parts.repeats) >= 3 and found.design.steps["train"] < 240
        assert few == (found.provisional or "").startswith(f"{found.design.steps['train']} steps of training")
    assert any((draft(hours).provisional or "").endswith("needs 240; give more hours") for hours in (0.05, 0.08, 0.1))


def test_hours_that_are_too_short_are_refused_with_what_would_do(draft) -> None:
    with pytest.raises(
        ValueError, match=r"--hours 0.001 is too short: .* takes about .* minutes, .* give more --hours$"
    ):
        draft(0.001)


def test_from_forty_labels_the_rates_are_not_checked(draft) -> None:
    found = draft(2000, labelled=90, count=None)
    assert "ssa_third" not in names(found)
    assert {"ssa_third", "no_ssa_third"} <= {each["name"] for each in found.dropped}


def test_from_forty_labels_the_rate_of_each_arm_is_tried_on_patients_who_are_never_tested(draft) -> None:
    found = draft(2000, labelled=90, count=None)
    tried = [(planned, stage) for planned, stage in found.stages if planned.kind == "trial"]
    assert [planned.arm for planned, _ in tried[::3]] == ["ssa", "no_ssa", "scratch", "full", "head", "full_ssa"]
    rates = [stage.values["lr"] for _, stage in tried[:3]]
    assert rates == [pytest.approx(rates[1] / 3), rates[1], 3 * rates[1]]
    assert "best of 3, tried with 45 labelled patients and scored on 15 others" in found.rates
    tested = {scan.patient for scan in found.parts.repeats[0][0].test}
    aside = {scan.patient for scan in found.parts.trial.test}
    assert not aside & (tested | {scan.patient for scan in found.parts.trial.training})
    names = [planned.name for planned, _ in found.stages]
    first_training = next(planned.name for planned, _ in found.stages if planned.kind == "train")
    assert max(names.index(planned.name) for planned, _ in tried) < names.index(first_training)


def test_rates_are_not_tried_where_it_cannot_be_and_the_plan_says_why(draft) -> None:
    def kinds(found: Draft) -> set[str]:
        return {planned.kind for planned, _ in found.stages}

    few = draft(2000, labelled=90, count=39)
    assert "trial" not in kinds(few) and not few.rates
    folds = draft(2000, labelled=55, count=None)
    assert "trial" not in kinds(folds) and "every labelled patient is tested" in folds.rates
    given = draft(2000, labelled=90, count=None, values={"lr": 1.0e-3})
    assert "trial" not in kinds(given) and given.rates == "No learning rate was tried, since lr was given."
    short = draft(0.3, labelled=90, count=None)
    assert "trial" not in kinds(short) and "--hours 0.3 is too short for 3 of each arm" in short.rates


def test_arms_are_dropped_for_trials_down_to_three(draft) -> None:
    counts: dict[bool, set[int]] = {}
    for hours in (0.3, 0.5, 0.6, 0.7, 0.8, 1.0, 1.4):
        found = draft(hours, labelled=90, count=None)
        counts.setdefault(any(planned.kind == "trial" for planned, _ in found.stages), set()).add(len(found.arms))
    assert min(counts[True]) >= 3 and False in counts


def test_a_little_noise_of_the_clock_changes_nothing(draft, monkeypatch: pytest.MonkeyPatch) -> None:
    before = draft(1)
    noisy = Timings(1.02, 0.0102, 0.101, dict.fromkeys(("base", "ssa", "peft", "full", "scratch"), 0.102))
    monkeypatch.setattr(plan_module, "measure", lambda design, labelled: noisy)
    after = draft(1)
    assert names(before) == names(after) and before.design == after.design


def test_the_disk_space_holds_the_label_maps_of_every_test(draft) -> None:
    found = draft(2000)
    cases = sum(len(fold.test) for folds in found.parts.repeats for fold in folds)
    tested = cases * (len(found.arms) + len(FLOORS["segmentation"]))
    assert found.disk - plan_module.replace(found, map_bytes=0.0).disk == pytest.approx(tested * 0.05 * 96**3)


def test_every_arm_but_the_checks_is_trained_on_further_numbers_of_labels_from_the_same_ssa(draft) -> None:
    found = draft(2000, further=(3, 20))
    rows = [(planned, stage) for planned, stage in found.stages if planned.labels == 20 and planned.repeat == 2]
    assert {planned.arm for planned, _ in rows} == {arm for arm in ARMS if not arm.endswith("_third")}
    name = {planned.name: planned for planned, _ in found.stages}
    ssa = next(planned for planned, stage in rows if planned.arm == "ssa" and planned.kind == "train")
    own = next(p for p, _ in found.stages if (p.arm, p.kind, p.repeat, p.labels) == ("ssa", "train", 2, None))
    assert ssa.needs == own.needs and ssa.needs[-1] in name
    sections = {stage.values["section"] for planned, stage in rows if planned.kind == "train"}
    assert sections == {"repeat_2#fold_1#training_20"}
    fold = found.parts.repeats[1][0]
    held = {count: {scan.patient for scan in scans} for count, scans in fold.further.items()}
    assert held[3] < {scan.patient for scan in fold.training} < held[20] and len(held[20]) == 20
    assert not any(planned.labels for planned, _ in found.stages if planned.kind == "refit")


def test_further_numbers_of_labels_are_dropped_after_the_arms_and_before_the_repeats(draft) -> None:
    seen = []
    for hours in (1.2, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1):
        found = draft(hours, further=(3, 20))
        kept = found.parts.further
        seen.append((len(found.arms), len(kept), len(found.parts.repeats)))
        assert {each["name"] for each in found.dropped} >= {f"{count} labels" for count in (3, 20) if count not in kept}
    assert seen == sorted(seen, reverse=True) and {kept for _, kept, _ in seen} == {0, 1, 2}
    assert all(arms == 2 for arms, kept, _ in seen if kept < 2) and all(kept == 0 for _, kept, r in seen if r < 5)


def test_a_number_of_labels_that_comes_twice_or_is_not_there_is_refused(draft) -> None:
    with pytest.raises(ValueError, match="label_count: a number comes twice"):
        draft(1, further=(10,))
    with pytest.raises(ValueError, match="label_count: expected 1 to 40, got 41"):
        draft(1, further=(41,))
