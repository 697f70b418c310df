# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the line that a problem gives."""

from __future__ import annotations

from monai_essa.data.check.volumes import Problem, joined


def test_a_problem_reads_as_one_line() -> None:
    problem = Problem("error", "a.nii", "image", "every voxel is 0", "leave out the file")
    assert str(problem) == "error: a.nii (image): every voxel is 0; leave out the file"


def test_a_name_that_does_not_print_is_shown_by_its_escapes() -> None:
    problem = Problem("error", "a\x1b[2J\nb\u202e.nii", "image", "every voxel is 0", "leave out the file")
    assert str(problem) == "error: a\\x1b[2J\\nb\\u202e.nii (image): every voxel is 0; leave out the file"


def test_the_same_problem_of_many_labels_is_one_line() -> None:
    problems = [Problem("error", f"{n}.nii", "label", "ids [255]", "correct it") for n in range(3)]
    problems.insert(1, Problem("error", "x.nii", "image", "every voxel is 0", "leave out the file"))
    problems.append(Problem("error", "y.nii", "image", "every voxel is 0", "leave out the file"))
    assert list(map(str, joined(problems))) == [
        "error: 0.nii and 2 more files (label): ids [255]; correct it",
        "error: x.nii (image): every voxel is 0; leave out the file",
        "error: y.nii (image): every voxel is 0; leave out the file",
    ]
    assert str(joined(problems[:3])[0]).startswith("error: 0.nii and 1 more file (label)")
