# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The page itself: nothing is fetched, nothing is run."""

from __future__ import annotations

import re

from monai_essa.report.html import PAGE


def test_page_has_no_script_and_no_event_handler() -> None:
    assert "<script" not in PAGE
    assert not re.search(r"\son[a-z]+=", PAGE)


def test_page_names_no_address() -> None:
    assert not re.search(r"https?://|url\(|<link|@import", PAGE)


def test_page_forbids_the_browser_to_load_anything() -> None:
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in PAGE


def test_page_is_made_for_print_and_for_readers_by_ear() -> None:
    assert "@media print" in PAGE
    assert '<html lang="en">' in PAGE
    assert 'alt="{{ figure.alt }}"' in PAGE
    assert 'scope="col"' in PAGE and 'scope="row"' in PAGE
