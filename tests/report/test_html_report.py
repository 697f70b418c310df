# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""report.html from made-up content, read back with the standard library's HTML parser."""

from __future__ import annotations

import base64
import dataclasses
import io
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from monai_essa.report.html import ReportContent, ReportFigure, ReportSection, write_report
from monai_essa.report.tables import ResultTable


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), 128).save(buffer, format="PNG")
    return buffer.getvalue()


TABLE = ResultTable("Dice by method", ["method", "Dice"], [["SSA", "0.80"], ["no SSA", "0.81"]], "Two cases.")
CONTENT = ReportContent(
    title="Adapting to scanner B",
    sections=[
        ReportSection("What was done", ["Pre-trained, adapted, fitted.", "Three labels."]),
        ReportSection("Results", tables=[TABLE], figures=[ReportFigure(_png(), "Grey.", "A grey rectangle")]),
    ],
    command="monai-essa demo --seed 0",
    versions={"monai": "1.6.1", "torch": "2.13.0"},
)


class _Page(HTMLParser):
    """Collects text and pictures, and checks that every element is closed in order."""

    EMPTY = {"meta", "img", "br"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and "style" not in self.open:
            self.text.append(" ".join(data.split()))


Render = Callable[[ReportContent], _Page]


@pytest.fixture
def page(tmp_path: Path) -> Render:
    """Writes a report and parses it."""
    pytest.importorskip("jinja2", reason="the report needs the extra [report]")
    return lambda run: _Page(write_report(tmp_path / "report.html", run).read_text(encoding="utf-8"))


def test_everything_given_is_on_the_page_in_order(page: Render) -> None:
    result = page(CONTENT)

    expected = [
        "Adapting to scanner B",
        "What was done",
        "Three labels.",
        "Results",
        "Grey.",
        "Dice by method",
        "SSA",
        "0.80",
    ]
    expected += ["no SSA", "0.81", "Two cases.", "monai-essa demo --seed 0"]
    places = [result.text.index(text, 1 if text == CONTENT.title else 0) for text in expected]
    assert places == sorted(places)
    assert "monai 1.6.1, torch 2.13.0" in " ".join(result.text)
    assert result.open == []


def test_figures_are_embedded(page: Render) -> None:
    (image,) = page(CONTENT).images

    assert image["alt"] == "A grey rectangle"
    head, _, data = str(image["src"]).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == _png()


def test_text_is_never_read_as_html(page: Render) -> None:
    hostile = '<script>alert("x")</script>'
    result = page(dataclasses.replace(CONTENT, title=hostile, command=hostile, versions={hostile: hostile}))

    assert result.text.count(hostile) >= 3
    assert result.open == []


def test_no_name_leaves_its_cell_caption_or_attribute(page: Render) -> None:
    hostile = """\'"><script>alert(1)</script><img src=x onerror='{{ 7 * 7 }}"""
    table = ResultTable(hostile, [hostile], [[hostile]], hostile)
    figures = [ReportFigure(_png(), hostile, hostile)]
    result = page(dataclasses.replace(CONTENT, sections=[ReportSection(hostile, [hostile], [table], figures)]))

    assert result.text.count(hostile) == 7
    assert [image["alt"] for image in result.images] == [hostile]
    assert result.open == []


def test_every_report_says_that_it_is_no_medical_device(page: Render) -> None:
    assert "Research software, not a medical device." in page(CONTENT).text


@pytest.mark.parametrize("template_derived", [True, False])
def test_only_the_demo_cohort_is_called_template_derived(page: Render, template_derived: bool) -> None:
    text = " ".join(page(dataclasses.replace(CONTENT, template_derived=template_derived)).text)

    assert ("Template-derived data." in text) == template_derived
    assert ("Louis Collins" in text) == template_derived


def test_an_older_report_is_replaced_and_no_partial_file_stays(page: Render, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("older")
    page(CONTENT)

    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert "older" not in (tmp_path / "report.html").read_text()


def test_without_jinja2_the_error_names_the_extra_and_an_older_report_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").write_text("older")
    monkeypatch.setitem(sys.modules, "jinja2", None)

    with pytest.raises(ImportError, match=r'pip install "monai_essa\[report\]"'):
        write_report(tmp_path / "report.html", CONTENT)
    assert (tmp_path / "report.html").read_text() == "older"
