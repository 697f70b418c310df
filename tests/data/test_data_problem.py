# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Tests for the line that a problem gives."""

from __future__ import annotations

from monai_essa.data.data_problem import Problem


def test_a_problem_reads_as_one_line() -> None:
    problem = Problem("error", "a.nii", "image", "every voxel is 0", "leave out the file")
    assert str(problem) == "error: a.nii (image): every voxel is 0; leave out the file"
