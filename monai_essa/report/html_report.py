# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Writes report.html: one file with text, tables and embedded figures. Needs jinja2."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_essa.files import written_whole
from monai_essa.report.html_template import PAGE
from monai_essa.report.tables import ResultTable

__all__ = ["ReportContent", "ReportFigure", "ReportSection", "write_report"]


@dataclass(frozen=True)
class ReportFigure:
    """A picture in the report.

    Args:
        png: the bytes of a PNG file, for example of `figure_png`.
        caption: what is seen and how to read it, below the picture.
        alt: the same in one sentence for who cannot see the picture.
    """

    png: bytes
    caption: str
    alt: str


@dataclass(frozen=True)
class ReportSection:
    """A titled part of the report: first its paragraphs, then its tables, then its figures."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[ResultTable] = ()
    figures: Sequence[ReportFigure] = ()


@dataclass(frozen=True)
class ReportContent:
    """What a report says. All text is shown as it stands, never read as HTML.

    Args:
        title: of the page.
        sections: in reading order.
        command: the command that repeats the run.
        versions: version by name of package or data.
        template_derived: the data are the demo cohort, which the page then says at its head.
    """

    title: str
    sections: Sequence[ReportSection]
    command: str
    versions: Mapping[str, str]
    template_derived: bool = False


def write_report(path: str | os.PathLike, run: ReportContent) -> Path:
    """Write the report as one self-contained HTML file, which opens offline, without JavaScript, and prints.

    The file appears only when complete and replaces an older report of that name.

    Args:
        path: HTML file in an existing folder.
        run: what to say.

    Returns:
        The path.

    Raises:
        ImportError: if jinja2 is not installed.

    Example:
        >>> import tempfile
        >>> section = ReportSection("Result", ["The mean Dice of two cases is 0.8."])
        >>> content = ReportContent("A run", [section], "monai-essa demo", {"monai": "1.6.1"})
        >>> write_report(Path(tempfile.mkdtemp()) / "report.html", content).name
        'report.html'
    """
    page = _render(run)
    path = Path(path)
    with written_whole(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _render(run: ReportContent) -> str:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise ImportError('report.html is rendered by jinja2: pip install "monai_essa[report]"') from error
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode("ascii")
    return environment.from_string(PAGE).render(content=run)
