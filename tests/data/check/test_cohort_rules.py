# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the rules that volumes must keep together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monai_essa.data.check.datalist import CheckedItem, mixture_problems, overlap_problems
from monai_essa.data.check.volumes import volume_facts


@pytest.fixture
def items(tmp_path: Path, write_nifti: Callable[..., Path]) -> list[CheckedItem]:
    """Four patients in two sections, alike but for their voxels."""
    facts = volume_facts(write_nifti(tmp_path / "a.nii", np.arange(60, dtype=np.float32).reshape(3, 4, 5)))
    return [
        CheckedItem("training" if i < 3 else "test", f"p{i}.nii", f"p{i}", replace(facts, digest=str(i)), None)
        for i in range(4)
    ]


def _changed(item: CheckedItem, **change: object) -> CheckedItem:
    assert item.image is not None
    return replace(item, image=replace(item.image, **change))


def test_a_uniform_cohort_has_no_problem(items: list[CheckedItem]) -> None:
    assert not list(mixture_problems(items))
    assert not list(overlap_problems(items))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"orientation": "LPS"}, "2 of 5 images are not RAS, as this one (LPS)"),
        ({"spacing": (1.0, 1.0, 5.0)}, "2 of 5 images differ from the median spacing 1 x 1 x 1"),
        ({"high": 1e6}, "2 of 5 images differ from the median intensity extent"),
    ],
)
def test_a_mixture_gives_one_warning_with_the_first_file(
    items: list[CheckedItem], change: dict[str, object], found: str
) -> None:
    odd = [_changed(items[1], **change), _changed(items[2], **change)]
    (problem,) = mixture_problems([items[0], *odd, items[3], items[0]])
    assert (problem.severity, problem.file) == ("warning", "p1.nii")
    assert found in problem.problem


def test_spacing_in_another_axis_order_is_no_mixture(items: list[CheckedItem]) -> None:
    cohort = [_changed(item, spacing=(1.0, 1.0, 5.0)) for item in items]
    assert not list(mixture_problems([*cohort[1:], _changed(items[0], spacing=(5.0, 1.0, 1.0))]))


def test_another_number_of_channels_is_an_error_for_each_file(items: list[CheckedItem]) -> None:
    (problem,) = mixture_problems([_changed(items[0], channels=30), *items[1:]])
    assert (problem.severity, problem.file) == ("error", "p0.nii")


def test_several_channels_everywhere_give_one_warning(items: list[CheckedItem]) -> None:
    (problem,) = mixture_problems([_changed(item, channels=4) for item in items])
    assert (problem.severity, problem.problem) == ("warning", "4 channels, as most images")


@pytest.mark.parametrize(("twin", "severity"), [(1, "warning"), (3, "error")])
def test_equal_voxels_are_worse_across_sections(items: list[CheckedItem], twin: int, severity: str) -> None:
    items[twin] = _changed(items[twin], digest="0")
    (problem,) = overlap_problems(items)
    assert (problem.severity, problem.file) == (severity, f"p{twin}.nii")
    assert "p0.nii" in problem.problem


def test_a_patient_in_two_sections_is_an_error(items: list[CheckedItem]) -> None:
    items[3] = replace(items[3], patient="p1")
    (problem,) = overlap_problems(items)
    assert (problem.severity, problem.file, problem.key) == ("error", "p3.nii", "test")
    assert "patient p1 is also in 'training'" in problem.problem


def test_unreadable_images_are_passed_over(items: list[CheckedItem]) -> None:
    assert not list(mixture_problems([replace(item, image=None) for item in items]))
    assert not list(overlap_problems([replace(item, image=None) for item in items]))


def test_a_label_map_among_scans_is_an_error_and_a_set_of_them_a_warning(items: list[CheckedItem]) -> None:
    (problem,) = mixture_problems([replace(items[0], image_is_label=True), *items[1:]])
    assert (problem.severity, problem.file, problem.problem) == ("error", "p0.nii", "label map among the images")
    (problem,) = mixture_problems([replace(item, image_is_label=True) for item in items])
    assert (problem.severity, problem.problem) == ("warning", "all 4 images look like label maps")
