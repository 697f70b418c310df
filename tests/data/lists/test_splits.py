# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for splits by patient."""

from __future__ import annotations

from collections import Counter

import pytest

from monai_essa.data.lists.splits import hold_out, nth_patients, split_patients


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
