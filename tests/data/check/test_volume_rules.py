# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the rules that one volume, and one pair, must keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monai_essa.data.check.volumes import VolumeFacts, image_problems, label_problems, pair_problems, volume_facts


@pytest.fixture
def image(tmp_path: Path, write_nifti: Callable[..., Path]) -> VolumeFacts:
    return volume_facts(write_nifti(tmp_path / "image.nii", np.arange(60, dtype=np.float32).reshape(3, 4, 5)))


@pytest.fixture
def label(tmp_path: Path, write_nifti: Callable[..., Path]) -> VolumeFacts:
    ids = (np.arange(60) % 3).astype(np.uint8).reshape(3, 4, 5)
    return volume_facts(write_nifti(tmp_path / "label.nii", ids), count_values=True)


def test_a_good_pair_has_no_problem(image: VolumeFacts, label: VolumeFacts) -> None:
    assert not list(image_problems("i", image))
    assert not list(label_problems("l", label, frozenset({0, 1, 2})))
    assert not list(pair_problems("l", image, label))


@pytest.mark.parametrize(
    ("change", "severity", "found"),
    [({"broken": 3}, "error", "3 voxels are NaN"), ({"minimum": 5.0, "maximum": 5.0}, "error", "every voxel is 5")],
)
def test_a_bad_image_is_said(image: VolumeFacts, change: dict[str, float], severity: str, found: str) -> None:
    (problem,) = image_problems("i", replace(image, **change))
    assert (problem.severity, problem.file, problem.key) == (severity, "i", "image")
    assert found in problem.problem


@pytest.mark.parametrize(
    ("change", "severity", "found"),
    [
        ({"values": (0.0, 0.5)}, "error", "got 0.5"),
        ({"values": (0.0, 1.0020000934600830)}, "error", "got 1.002000093460083"),
        ({"values": (-1.0, 0.0)}, "error", "got -1"),
        ({"values": ()}, "error", "more than 256 values"),
        ({"broken": 1}, "error", "got NaN"),
        ({"values": (0.0, 1.0, 9.0)}, "error", "ids [9] are not among the datalist's labels [0, 1, 2]"),
        ({"values": (0.0,)}, "warning", "only background"),
    ],
)
def test_a_bad_label_is_said(label: VolumeFacts, change: dict[str, object], severity: str, found: str) -> None:
    (problem,) = label_problems("l", replace(label, **change), frozenset({0, 1, 2}))
    assert (problem.severity, problem.key) == (severity, "label")
    assert found in problem.problem


def test_any_id_is_right_where_the_datalist_names_none(label: VolumeFacts) -> None:
    assert not list(label_problems("l", replace(label, values=(0.0, 77.0)), frozenset()))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"shape": (3, 4, 6)}, "expected the image's shape 3 x 4 x 5, got 3 x 4 x 6"),
        ({"affine": np.diag([1.0, 1.0, 1.5, 1.0])}, "moves a corner by 2.0 voxels"),
        ({"channels": 2}, "expected one channel, got 2"),
    ],
)
def test_a_label_off_its_image_is_said(
    image: VolumeFacts, label: VolumeFacts, change: dict[str, object], found: str
) -> None:
    (problem,) = pair_problems("l", image, replace(label, **change))
    assert problem.severity == "error"
    assert found in problem.problem


def test_rounding_of_the_affine_is_no_problem(image: VolumeFacts, label: VolumeFacts) -> None:
    assert not list(pair_problems("l", image, replace(label, affine=label.affine + 1e-4)))


def test_values_near_ids_and_values_of_the_label_map_are_right(label: VolumeFacts) -> None:
    known = frozenset({0, 1})
    assert not list(label_problems("l", replace(label, values=(0.0, 0.99999994)), known))
    assert not list(label_problems("l", replace(label, values=(0.0, 255.0)), known, {255.0: 1}))
    (problem,) = label_problems("l", replace(label, values=(0.0, 255.0)), known)
    assert problem.advice.endswith("or give a label map such as 255=1")


def test_what_the_reader_notes_is_a_warning(image: VolumeFacts, label: VolumeFacts) -> None:
    note = ("units micron, taken for mm",)
    (problem,) = image_problems("i", replace(image, notes=note))
    assert str(problem).startswith("warning: i (image): units micron, taken for mm; ")
    (problem,) = label_problems("l", replace(label, notes=note), frozenset())
    assert (problem.severity, problem.key) == ("warning", "label")
