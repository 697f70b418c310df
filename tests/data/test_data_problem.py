# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the line that a problem gives."""

from __future__ import annotations

from monai_essa.data.data_problem import Problem


def test_a_problem_reads_as_one_line() -> None:
    problem = Problem("error", "a.nii", "image", "every voxel is 0", "leave out the file")
    assert str(problem) == "error: a.nii (image): every voxel is 0; leave out the file"
