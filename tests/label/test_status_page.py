# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""The server's pages, as a browser without the internet shows them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.status_page import status_page

OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --virtual-time-budget=5000 --dump-dom""".split()


@pytest.fixture
def shown(tmp_path: Path) -> Callable[[str], str]:
    """Gives the DOM of a page after its scripts ran in headless Chromium."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        message = "needs Chromium (Debian: apt-get install chromium)"
        assert os.environ.get("MONAI_ESSA_REQUIRE_BROWSER") != "1", message
        pytest.skip(message)

    def dom(url: str) -> str:
        command = [browser, *FLAGS, OFFLINE, f"--user-data-dir={tmp_path / 'profile'}", url]
        return subprocess.run(command, check=True, capture_output=True, encoding="utf-8", timeout=120).stdout

    return dom


def info(**adapters: Any) -> dict[str, Any]:
    """What the page reads of /info/."""
    app = {"name": "monai_essa", "version": "1", "description": "<Segments>"}
    stats = {"liver": {"adapters": adapters}, "liver_ssa": {"adapters": adapters}}
    return app | {"datastore": {"completed": 3, "total": 27}, "models": {"liver": {}}, "train_stats": stats}


def rows(page: str) -> list[list[str]]:
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)][1:]


def test_a_site_has_its_versions_and_their_use() -> None:
    ssa = {"version": 1, "stage": "ssa", "images": 27, "epochs": 10, "seconds": 60}
    trained = {"version": 2, "labels": 3, "epochs": 10, "seconds": 50, "dice": 0.8123}
    source, start = "27 volumes without labels (SSA)", "the next training starts here"
    page = status_page(info(new=[ssa], both=[ssa, trained]), None)
    assert rows(page) == [
        ["new", "1", source, "10", "60", "", start],
        ["both", "2", "3 labels", "10", "50", "0.8123", "segments"],
        ["both", "1", source, "10", "60", "", ""],
    ]
    assert "3 of 27 volumes have a label" in page


def test_what_is_damaged_or_worse_is_said_and_not_used() -> None:
    used = {"version": 1, "labels": 3, "dice": 0.8}
    worse = {"version": 2, "labels": 4, "promoted": False, "held_out": {"volumes": 2, "dice": 0.5, "before": 0.8}}
    lost = {"version": 3, "labels": 5, "damaged": True}
    told = info(site=[used, worse, lost])
    told["train_stats"]["liver"]["problems"] = ["adapter site: version 3 is missing"]
    told["datastore"]["problems"] = ["case_00: cannot be read <b>"]
    page = status_page(told, None)
    assert [row[-1] for row in rows(page)] == [
        "missing or damaged, passed over",
        "kept, not used: Dice 0.5 on 2 held-out volumes, 0.8 before",
        "segments",
    ]
    assert "<li>adapter site: version 3 is missing</li>" in page
    assert "<li>case_00: cannot be read &lt;b&gt;</li>" in page


def test_a_version_without_its_notes_is_shown() -> None:
    page = status_page(info(site=[{"version": 1, "stage": "ssa"}, {"version": 2}]), None)
    assert rows(page) == [
        ["site", "2", "unknown", "", "", "", "segments"],
        ["site", "1", "unknown volumes without labels (SSA)", "", "", "", ""],
    ]


def test_what_is_no_html_stays_text() -> None:
    task = {"status": "ERROR", "start_ts": "12:00", "request": {"model": "<b>"}, "details": ["ValueError: <no labels>"]}
    page = status_page(info(), task)
    assert "&lt;Segments&gt;" in page
    assert "<pre>ValueError: &lt;no labels&gt;</pre>" in page
    assert "&lt;b&gt;, begun 12:00, ended not yet" in page
    assert "No adapter yet" in page


@pytest.mark.slow  # starts a server, and a browser for each page
def test_a_browser_shows_the_pages(shown: Callable[[str], str], untrained_server: Any) -> None:
    url = untrained_server.url
    status = shown(f"{url}/status")
    assert "<title>MONAI Label: monai_essa</title>" in status
    assert "of 6 volumes have a label" in status
    assert "<h2>ball_segmentation</h2>" in status

    information = shown(f"{url}/info/")
    assert "<pre>" in information
    assert '"trainers":{"ball_segmentation_ssa":' in information
    assert f"studies: {untrained_server.studies}" in shown(f"{url}/logs/?text=true")

    # MONAI Label's own pages draw themselves by scripts of the internet: docs/label.md says so.
    api = shown(f"{url}/")
    assert "<title>MONAILabel - APIs</title>" in api
    assert re.search(r'<div id="swagger-ui">\s*</div>', api)
    assert re.search(r"<redoc [^>]*></redoc>", shown(f"{url}/docs"))
    assert re.search(r'<div id="editor"[^>]*>\s*</div>', shown(f"{url}/logs/"))
