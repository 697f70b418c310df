# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A partition tests each patient as promised, keeps patients on one side, and depends on nothing but scans and seed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_essa.study.splits import SplitRequest, partition
from monai_essa.study.terms.partition import Fold, Partition, Scan, partition_sections


def site(labelled: int, unlabelled: int = 0, visits: int = 1, classes: int = 0) -> list[Scan]:
    """Patients with some visits each, of which the first has the label; with classes, a rare last one."""
    scans = []
    for number in range(labelled + unlabelled):
        for visit in range(visits):
            label: Any = f"l{number:03}.nii.gz" if not classes else min(number % (2 * classes), classes - 1)
            known = number < labelled and visit == 0
            scans.append(Scan(f"i{number:03}_{visit}.nii.gz", label if known else None, f"p{number:03}"))
    return scans


def patients(scans: tuple[Scan, ...]) -> set[str]:
    return {scan.patient for scan in scans}


def folds(found: Partition) -> list[Fold]:
    return [fold for repeat in found.repeats for fold in repeat]


DESIGNS = [(0, "none"), (1, "none"), (2, "leave-one-out"), (9, "leave-one-out")] + [
    (10, "folds"),
    (59, "folds"),
    (60, "fixed"),
    (200, "fixed"),
]


@pytest.mark.parametrize(("labelled", "design"), DESIGNS)
def test_the_design_follows_the_number_of_labelled_patients(labelled: int, design: str) -> None:
    found = partition(site(labelled, 5), SplitRequest())
    assert found.design == design
    sizes = {"none": (1, 1), "leave-one-out": (5, labelled), "folds": (5, 5), "fixed": (5, 1)}
    assert (len(found.repeats), {len(repeat) for repeat in found.repeats}) == (sizes[design][0], {sizes[design][1]})


@settings(max_examples=150, deadline=None)
@given(
    labelled=st.integers(0, 90),
    unlabelled=st.integers(1, 30),
    visits=st.integers(1, 2),
    classes=st.sampled_from([0, 2, 3]),
    seed=st.integers(0, 2**31),
)
def test_no_patient_is_on_two_sides(labelled: int, unlabelled: int, visits: int, classes: int, seed: int) -> None:
    scans = site(labelled, unlabelled, visits, classes if labelled >= 6 else 0)
    found = partition(scans, SplitRequest(repeats=2, seed=seed))
    for fold in folds(found):
        assert not patients(fold.test) & (patients(fold.training) | patients(fold.unlabeled))
        assert all(scan.label is not None for scan in fold.training + fold.test)
        assert all(scan.label is None for scan in fold.unlabeled)
        assert {scan.image for scan in fold.unlabeled} <= {scan.image for scan in scans}
    for repeat in found.repeats:
        tested = Counter(scan.image for fold in repeat for scan in fold.test)
        assert set(tested.values()) <= {1}
        if found.design in ("folds", "leave-one-out"):
            assert set(tested) == {scan.image for scan in scans if scan.label is not None}
            sizes = [len(patients(fold.test)) for fold in repeat]
            assert max(sizes) - min(sizes) <= 1 and min(sizes) > 0


@pytest.mark.parametrize("labelled", [6, 25, 80])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_order_of_the_scans_plays_no_part(labelled: int, classes: int) -> None:
    scans = site(labelled, 7, 2, classes)
    request = SplitRequest(label_count=4, seed=3)
    assert partition(random.Random(1).sample(scans, len(scans)), request) == partition(scans, request)


def test_the_hash_seed_of_python_plays_no_part() -> None:
    script = (
        "import json; from monai_essa.study.splits import *; from monai_essa.study.terms.partition import *;"
        "scans = [Scan(f'i{n}', n % 3, f'p{n}') for n in range(70)];"
        "print(json.dumps([partition_sections(partition(scans[:size], SplitRequest(5))) for size in (20, 70)]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_repeats_and_seeds_draw_anew_and_the_same_seed_draws_the_same() -> None:
    for labelled in (30, 90):
        found = partition(site(labelled), SplitRequest(label_count=10, repeats=4))
        drawn = [repeat[0].training for repeat in found.repeats]
        assert len(set(drawn)) == 4
        assert partition(site(labelled), SplitRequest(label_count=10, repeats=4)) == found
        assert partition(site(labelled), SplitRequest(label_count=10, repeats=4, seed=1)).repeats != found.repeats
        assert partition(site(labelled), SplitRequest(label_count=10, repeats=2)).repeats == found.repeats[:2]


@pytest.mark.parametrize(("labelled", "tested"), [(60, 30), (89, 30), (90, 30), (150, 50)])
def test_a_drawn_test_set_is_a_third_and_at_least_thirty_and_the_same_in_every_repeat(
    labelled: int, tested: int
) -> None:
    found = partition(site(labelled, 4), SplitRequest(label_count=10))
    assert len({fold.test for fold in folds(found)}) == 1
    fold = folds(found)[0]
    assert (len(fold.test), len(fold.training)) == (tested, 10)
    assert len(patients(fold.unlabeled)) == labelled + 4 - tested, "hidden labels' scans feed SSA"
    assert patients(fold.training) < patients(fold.unlabeled)


def test_a_smaller_label_count_draws_a_subset() -> None:
    few, more = (partition(site(90, classes=3), SplitRequest(label_count=count)) for count in (5, 20))
    for one, other in zip(folds(few), folds(more), strict=True):
        assert set(one.training) < set(other.training) and one.test == other.test


def test_given_test_patients_are_tested_whatever_their_number() -> None:
    scans = site(20, 3)
    found = partition(scans, SplitRequest(test_patients=["p003", "p001", "p003"], repeats=2))
    assert found.design == "fixed" and patients(folds(found)[0].test) == {"p001", "p003"}
    assert len(folds(found)[0].training) == 18 and len(folds(found)[0].unlabeled) == 21


@pytest.mark.parametrize(("unlabelled", "by_fold"), [(0, True), (19, True), (20, False)])
def test_ssa_sees_training_scans_only_where_unlabelled_ones_are_few(unlabelled: int, by_fold: bool) -> None:
    found = partition(site(25, unlabelled), SplitRequest())
    assert found.ssa_by_fold is by_fold
    for fold in folds(found):
        rest = patients(fold.training) if by_fold else set()
        assert patients(fold.unlabeled) == rest | {f"p{number:03}" for number in range(25, 25 + unlabelled)}
    assert len({fold.unlabeled for fold in found.repeats[0]}) == (5 if by_fold else 1)


def test_an_unlabelled_scan_of_a_tested_patient_does_not_reach_ssa() -> None:
    for labelled in (8, 25, 70):
        for fold in folds(partition(site(labelled, 30, visits=2), SplitRequest(repeats=2))):
            assert not patients(fold.unlabeled) & patients(fold.test)


def test_transductive_lets_scans_of_tested_patients_in_and_says_so() -> None:
    for labelled in (8, 25, 70):
        scans = site(labelled, 30, visits=2)
        found = partition(scans, SplitRequest(transductive=True))
        assert all(len(fold.unlabeled) == len(scans) for fold in folds(found)) and not found.ssa_by_fold
        assert all(scan.label is None for fold in folds(found) for scan in fold.unlabeled)
        assert "transductive" in " ".join(found.sentences)
        assert "transductive" not in " ".join(partition(scans, SplitRequest()).sentences)


@settings(max_examples=60, deadline=None)
@given(labelled=st.integers(60, 120), count=st.integers(4, 30), seed=st.integers(0, 999))
def test_each_class_of_the_pool_is_in_every_training(labelled: int, count: int, seed: int) -> None:
    scans = [replace(scan, label=3 if number in (5, 17, 40) else scan.label) for number, scan in
             enumerate(site(labelled, classes=3))]  # fmt: skip
    found = partition(scans, SplitRequest(label_count=count, seed=seed, num_classes=4))
    for fold in folds(found):
        assert {scan.label for scan in fold.training} == {0, 1, 2, 3}


@settings(max_examples=40, deadline=None)
@given(labelled=st.integers(10, 59), seed=st.integers(0, 999))
def test_the_folds_share_the_classes(labelled: int, seed: int) -> None:
    scans = site(labelled, classes=2)
    for repeat in partition(scans, SplitRequest(seed=seed, repeats=2)).repeats:
        counts = [sum(scan.label == 1 for scan in fold.test) for fold in repeat]
        assert max(counts) - min(counts) <= 1


def test_several_classes_of_a_scan_count_each() -> None:
    scans = [Scan(f"i{number}", [1, int(number % 9 == 0), int(number == 7)], f"p{number}") for number in range(70)]
    found = partition(scans, SplitRequest(label_count=3))
    for fold in folds(found):
        held = [sum(scan.label[place] for scan in fold.training if scan.label) for place in range(3)]
        assert all(held)
        assert held[2] == 1, "the only patient of a class stays out of the test set"


def test_a_class_that_a_training_must_miss_is_said() -> None:
    scans = [Scan(f"i{number}", int(number == 3), f"p{number}") for number in range(12)]
    said = " ".join(partition(scans, SplitRequest()).sentences)
    assert "Class 1, of 1 labelled patient, is missing from some trainings on 9 labelled patients" in said


def test_everything_is_there_for_the_refit() -> None:
    scans = site(70, 4, visits=2)
    found = partition(scans, SplitRequest(label_count=5))
    assert (len(found.refit.training), len(found.refit.unlabeled), found.refit.test) == (70, 148, ())


def test_the_sections_name_what_the_folds_hold() -> None:
    found = partition(site(10, 2, classes=2), SplitRequest(repeats=2))
    sections = json.loads(json.dumps(partition_sections(found)))
    assert set(sections) == {"repeat_1", "repeat_2", "all"}
    first = sections["repeat_2"]["fold_5"]
    fold = found.repeats[1][4]
    assert first["training"][0] == {"image": fold.training[0].image, "label": fold.training[0].label} | {
        "patient": fold.training[0].patient
    }
    assert [len(first[name]) for name in ("training", "test", "unlabeled")] == [8, 2, 10]
    assert "label" not in first["unlabeled"][0] and len(sections["all"]["training"]) == 10
    assert "test" not in sections["all"], "an empty section would be refused by whoever reads it"


@pytest.mark.parametrize(
    ("scans", "request_of", "message"),
    [
        ([], {}, "expected at least one scan, got none"),
        (site(3) + site(1), {}, "'i000_0.nii.gz' comes twice"),
        (site(60), {"label_count": 31}, "label_count: expected 1 to 30, got 31: the 30 test patients leave 30"),
        (site(12), {"label_count": 10}, "expected 1 to 9, got 10: a fold of 12 labelled patients leaves 9"),
        (site(12), {"test_patients": ["p099"]}, "test patient 'p099' has no labelled scan"),
        (site(3, 1), {"test_patients": ["p003"]}, "test patient 'p003' has no labelled scan"),
        (site(2), {"test_patients": ["p000", "p001"]}, "expected 1 to 0, got 0: the 2 test patients leave 0"),
        (site(12, classes=2), {"num_classes": 3}, "class 2 has no labelled scan"),
        ([Scan(f"i{n}", 1, f"p{n}") for n in range(12)], {}, "all labelled scans are of class 1"),
        (site(12, classes=2), {"test_patients": [f"p{n:03}" for n in range(12) if n % 4]}, "class 1 is on test"),
    ],
)
def test_what_cannot_be_parted_is_one_line(scans: list[Scan], request_of: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        partition(scans, SplitRequest(**request_of))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("label_count", 0), ("label_count", True), ("repeats", 0), ("seed", -1), ("test_patients", []), ("num_classes", 1)]
    + [("transductive", "false"), ("test_patients", "p001"), ("seed", 0.5)],
)
def test_a_request_out_of_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        SplitRequest(**{field: value})
