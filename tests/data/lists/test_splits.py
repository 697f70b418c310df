# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for splits by patient."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from monai_essa.data.lists.splits import fold_items, fold_section, hold_out, nth_patients, split_patients


def test_fractions_give_their_share_and_use_every_patient() -> None:
    counts = Counter(split_patients(map(str, range(100))).values())
    assert counts == {"training": 70, "validation": 10, "testing": 20}


def test_counts_leave_the_rest_unlabeled() -> None:
    counts = Counter(split_patients(map(str, range(20)), {"training": 3, "testing": 0.25}).values())
    assert counts == {"training": 3, "testing": 5, "unlabeled": 12}


@pytest.mark.parametrize("patients", [3, 4, 7, 13])
def test_every_section_of_a_small_cohort_has_a_patient(patients: int) -> None:
    counts = Counter(split_patients(map(str, range(patients))).values())
    assert set(counts) == {"training", "validation", "testing"}
    assert counts["training"] == max(counts.values())


def test_the_split_follows_the_seed_and_not_the_order() -> None:
    names = [str(i) for i in range(30)]
    assert split_patients(names, seed=1) == split_patients(names[::-1] + names, seed=1)
    assert split_patients(names, seed=1) != split_patients(names, seed=2)


@pytest.mark.parametrize(
    "shares", [{}, {"training": 0.7, "testing": 0.5}, {"training": 0}, {"training": -0.1}, {"a": 1.5}]
)
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected counts"):
        split_patients("abc", shares)


@pytest.mark.parametrize("shares", [{"training": 5}, {"training": 0.4, "validation": 0.3, "testing": 0.3}])
def test_too_few_patients_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"2 patients cannot fill .* --group-by name"):
        split_patients("ab", shares)


def test_a_patient_is_held_out_whole() -> None:
    items = [{"image": f"p{i}_{side}.nii"} for i in range(10) for side in "LR"]
    rest, held = hold_out(items, 0.2)
    assert len(held) == 4
    assert {item["image"][:2] for item in rest}.isdisjoint({item["image"][:2] for item in held})
    assert sorted(map(str, [*rest, *held])) == sorted(map(str, items))


def test_channels_in_several_files_are_one_patient() -> None:
    items = [{"image": [f"p{i}_{side}_t1.nii", f"p{i}_{side}_t2.nii"]} for i in range(4) for side in "LR"]
    rest, held = hold_out(items, 0.25)
    assert (len(rest), len(held)) == (6, 2)


def test_the_patient_of_an_item_goes_before_its_name() -> None:
    items = [{"image": f"scan{i}.nii", "patient": "same" if i < 9 else "other"} for i in range(10)]
    rest, held = hold_out(items, 0.5)
    assert {len(rest), len(held)} == {1, 9}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        hold_out([{"image": "a.nii"}, {"image": "b.nii"}], fraction)


def test_patients_may_come_from_the_list() -> None:
    items = [{"image": f"scan{i}.nii"} for i in range(10)]
    rest, held = hold_out(items, 0.5, patients={f"scan{i}.nii": "same" if i < 9 else "other" for i in range(10)})
    assert {len(rest), len(held)} == {1, 9}


def test_each_nth_patient_is_set_apart_whole() -> None:
    items = [{"image": f"p{i}_{side}.nii"} for i in range(10) for side in "LR"]
    rest, apart = nth_patients(items, 5)
    assert [item["image"] for item in apart] == ["p0_L.nii", "p0_R.nii", "p5_L.nii", "p5_R.nii"]
    assert len(rest) == 16


def test_with_one_scan_a_patient_each_nth_scan_is_set_apart() -> None:
    items = [{"image": f"/data/hippocampus_{i:03}.nii.gz"} for i in range(25)]
    rest, apart = nth_patients(items, 10)
    assert apart == items[::10]
    assert rest == [item for number, item in enumerate(items) if number % 10]


def test_the_only_patient_is_on_both_sides() -> None:
    items = [{"image": f"{i}.nii", "patient": "p"} for i in range(3)]
    assert nth_patients(items, 10) == (items, items)


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_a_count_that_is_none_is_refused(every: int) -> None:
    with pytest.raises(ValueError, match="hold_out: expected a whole number"):
        nth_patients([{"image": "a.nii"}], every)


def scans_of(patients: int) -> list[dict[str, object]]:
    """Two scans of each patient; every third patient has class 1."""
    return [
        {"image": f"p{number:02d}_{side}.nii", "label": int(number % 3 == 0)}
        for number in range(patients)
        for side in "LR"
    ]


def test_folds_part_the_patients() -> None:
    scans = scans_of(11)
    held = [fold_items(scans, fold, 4, held_out=True) for fold in range(4)]
    assert sorted(item["image"] for fold in held for item in fold) == sorted(item["image"] for item in scans)
    assert [len(fold) for fold in held] == [6, 6, 6, 4]
    for fold, apart in enumerate(held):
        rest = fold_items(scans, fold, 4)
        assert {item["image"][:3] for item in rest}.isdisjoint({item["image"][:3] for item in apart})
        assert len(rest) + len(apart) == len(scans)
        assert sum(item["label"] for item in apart) == 2  # one patient of class 1


def test_folds_do_not_depend_on_the_order_of_the_items() -> None:
    scans = scans_of(9)
    turned = fold_items(scans[::-1], 0, 3, held_out=True)
    assert fold_items(scans, 0, 3, held_out=True) == turned[::-1]


def test_patients_whom_the_list_names_stay_together() -> None:
    scans = [
        {"image": f"{number}.nii", "label": f"{number}_seg.nii", "patient": "ab"[number % 2]} for number in range(6)
    ]
    assert len(fold_items(scans, 1, 2, held_out=True)) == 3


def test_without_a_fold_a_section_is_as_it_was() -> None:
    assert fold_section(["a", "b"]) == ["a", "b"]
    assert fold_section("a", None, 5, "b") == "b"


@pytest.mark.parametrize(
    ("fold", "folds", "message"),
    [
        (5, 5, "fold: expected a whole number from 0 to 4, got 5"),
        (0, 1, "folds: expected a whole number from 2 to 1000, got 1"),
        ("0", 5, "fold: expected a whole number from 0 to 4, got '0'"),
    ],
)
def test_a_fold_that_is_not_there_is_refused(fold: Any, folds: int, message: str) -> None:
    for ask in (lambda: fold_items(scans_of(6), fold, folds), lambda: fold_section("training", fold, folds)):
        with pytest.raises(ValueError, match=message):
            ask()


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(ValueError, match="folds: expected at most 6, the number of patients, got 7; set fewer"):
        fold_items(scans_of(6), 0, 7)


def test_a_fold_of_several_sections_is_refused() -> None:
    with pytest.raises(ValueError, match="section: expected text"):
        fold_section(["a", "b"], 0)
