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

"""One line that says why, at the end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from monai_essa.engines.error_line import root_cause

CHAIN = """
try:
    raise ValueError("columns must be\\n between 1 and 24")
except ValueError as error:
    raise RuntimeError("item") from error
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    start = "from monai_essa.engines.error_line import show_cause_last\nshow_cause_last()\nshow_cause_last()\n"
    return subprocess.run([sys.executable, "-W", "ignore", "-c", start + code], capture_output=True, text=True)


@pytest.mark.slow
def test_cause_is_the_last_line_and_the_traceback_stays():
    result = run(CHAIN)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "error: columns must be between 1 and 24"
    assert result.stderr.count("RuntimeError: item") == 1


def test_context_counts_unless_it_is_suppressed():
    error, first = RuntimeError("second"), KeyError("first")
    error.__context__ = first
    assert root_cause(error) is first
    error.__suppress_context__ = True
    assert root_cause(error) is error
