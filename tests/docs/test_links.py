# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Links within the repository lead somewhere: files and headings exist, and so do the files that CONTRIBUTING names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.shown_commands import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "bundles").glob("*/docs/README.md")),
]


def anchors(page: Path) -> set[str]:
    """The anchors that a code host makes of the headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_contributing_names_files_and_rooms_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:monai_essa|tests|bundles)/[\w./*]+)`", text)) - {"monai_essa/x/", "tests/x/"}
    rows = text.partition("| room |")[2].partition("\n\n")[0].splitlines()[2:]
    rooms = {f"monai_essa/{name}" for row in rows for name in re.findall("`(.*?)`", row.split("|")[1])}
    assert len(paths) > 20 and len(rooms) > 15
    assert not [path for path in sorted(paths | rooms) if not list(ROOT.glob(path))]
