# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The Python of pages and tutorials takes from monai_essa what is there; `make test-all` runs all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.shown_commands import ROOT
from tests.docs.shown_names import misfits

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "bundles").glob("*/docs/README.md"))
SCRIPTS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from monai_essa import adapt\nadapt(network, method)", None),
        ("import monai_essa.methods as methods", None),
        ("from monai_essa.methods import APLA\nAPLA(**values)", None),
        ("from monai_essa import adopt", "No module named 'monai_essa.adopt'"),
        ("from monai_essa.gone import adapt", "No module named 'monai_essa.gone'"),
        ("from monai_essa import adapt\nadapt(network)", "adapt: missing a required argument: 'method'"),
        ("from monai_essa.methods import APLA as A\nA(colums=4)", "A: got an unexpected keyword argument 'colums'"),
    ],
)
def test_a_name_that_is_gone_and_a_call_that_does_not_bind_are_found(code: str, expected: str | None) -> None:
    assert misfits(code) == ([] if expected is None else [expected])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_fits(page: Path) -> None:
    blocks = re.findall(r"^```python.*?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert [line for block in blocks for line in misfits(block)] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_tutorial_fits(script: Path) -> None:
    assert misfits(script.read_text(encoding="utf-8")) == []
