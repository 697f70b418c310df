# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""report.html: one file with its figures inside."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_essa.files import write_text_whole
from monai_essa.report.tables import ResultTable

__all__ = ["PAGE", "ReportContent", "ReportFigure", "ReportSection", "default_page", "write_report"]

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ content.title }}</title>
<style>
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 56rem; padding: 2rem 1.25rem 3rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .75rem; }
h2 { font-size: 1.25rem; margin: 2.25rem 0 .5rem; padding-bottom: .25rem; border-bottom: 1px solid #d0d0d0; }
p { margin: .5rem 0 .75rem; }
.notice { border-left: .3rem solid #0072B2; background: #f1f6fa; padding: .25rem .9rem; margin: .75rem 0; }
.notice p { margin: .25rem 0; font-size: .875rem; }
nav { margin: 2rem 0 0; font-size: .9rem; }
nav a { display: inline-block; margin: .2rem 1rem .2rem 0; color: #00507d; }
a:focus-visible, .wide:focus-visible { outline: 2px solid #0072B2; outline-offset: 2px; }
.wide { overflow-x: auto; margin: 1rem 0; }
section:first-of-type > p:first-of-type { font-size: 1.125rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #d0d0d0; }
thead th { border-bottom: 2px solid #1a1a1a; vertical-align: bottom; }
tbody th { font-weight: 600; }
th.short { white-space: nowrap; }
td { white-space: nowrap; }
td.text { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
.note, figcaption, footer { color: #4a4a4a; font-size: .875rem; }
figure { margin: 1.25rem 0; }
figure img { display: block; max-width: min(100%, 42rem); height: auto; }
figcaption { margin-top: .4rem; }
pre { background: #f4f4f4; padding: .7rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .875rem; }
footer { margin-top: 2.5rem; border-top: 1px solid #d0d0d0; padding-top: .75rem; }
@media (max-width: 30rem) {
  body { padding: 1.25rem 1rem 2rem; }
  table { font-size: .85rem; }
  th, td { padding-right: .6rem; }
  td { white-space: normal; }
  td.text { min-width: 9rem; }
}
@media print {
  :root { font-size: 10pt; }
  body { max-width: none; padding: 0; }
  h2 { margin-top: 1.25rem; }
  .notice, pre { background: #fff; }
  nav { display: none; }
  .wide { overflow: visible; }
  h2, caption { break-after: avoid; }
  tr, figure, .notice { break-inside: avoid; }
  thead { display: table-header-group; }
  td { white-space: normal; }
  table { font-size: 8.5pt; }
  figure img { max-height: 9.5cm; width: auto; }
}
</style>
</head>
<body>
<header>
<h1>{{ content.title }}</h1>
<div class="notice" role="note">
<p><strong>Research software, not a medical device.</strong> Nothing here is fit for the care of a patient.</p>
{% if content.template_derived %}
<p><strong>Template-derived data.</strong> The volumes are deformed copies of the MNI152 template (Copyright (C)
1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University), imaged by
two made-up scanners; none is a patient. The numbers show that the steps run and what they cost, not what to expect on
real scans.</p>
{% endif %}
</div>
</header>
<main>
{% for section in content.sections %}
{% if loop.index0 == 1 and content.sections | length > 3 %}
<nav aria-label="Sections">
{% for other in content.sections %}<a href="#part-{{ loop.index }}">{{ other.title }}</a>
{% endfor %}
</nav>
{% endif %}
<section id="part-{{ loop.index }}">
<h2>{{ section.title }}</h2>
{% for paragraph in section.paragraphs %}
<p>{{ paragraph }}</p>
{% endfor %}
{% for figure in section.figures %}
<figure>
<img alt="{{ figure.alt }}" src="data:image/png;base64,{{ figure.png | base64 }}">
<figcaption>{{ figure.caption }}</figcaption>
</figure>
{% endfor %}
{% for table in section.tables %}
<div class="wide" role="region" aria-label="{{ table.title }}" tabindex="0">
<table>
<caption>{{ table.title }}</caption>
<thead><tr>{% for header in table.headers %}<th scope="col">{{ header }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}{% if loop.first %}<th scope="row"{% if cell | length <= 16 %} class="short"{% endif %}>\
{{ cell }}</th>\
{% else %}<td{% if cell | length > 30 %} class="text"{% endif %}>{{ cell }}</td>{% endif %}\
{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% if table.note %}
<p class="note">{{ table.note }}</p>
{% endif %}
</div>
{% endfor %}
</section>
{% endfor %}
<section>
<h2>How to get this again</h2>
<pre>{{ content.command }}</pre>
<p class="note">
{% for name, version in content.versions.items() %}
{{ name }}&nbsp;{{ version }}{{ "" if loop.last else "," }}
{% endfor %}
</p>
</section>
</main>
<footer>Written by monai_essa, a community project, not one of the MONAI Consortium.</footer>
</body>
</html>
"""


@dataclass(frozen=True)
class ReportFigure:
    """A picture in the report.

    Args:
        png: the bytes of a PNG file, for example of `figure_png`.
        caption: what is seen and how to read it, below the picture.
        alt: the same in one sentence for readers who cannot see the picture.
    """

    png: bytes
    caption: str
    alt: str


@dataclass(frozen=True)
class ReportSection:
    """A titled part of the report: first its paragraphs, then its figures, then its tables."""

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
        template_derived: whether the data are the demo cohort; the page then says so at its head.
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
        path: HTML file; its folder is made if missing.
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
    path, page = Path(path), _render(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, page)
    return path


def default_page(show_ids: bool) -> str:
    """Return the name of a page that is given none: one with names of files never takes the place of one without.

    Example:
        >>> default_page(show_ids=True)
        'report_with_ids.html'
    """
    return "report_with_ids.html" if show_ids else "report.html"


def _render(run: ReportContent) -> str:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise ImportError('report.html is rendered by jinja2: pip install "monai_essa[report]"') from error
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode("ascii")
    return environment.from_string(PAGE).render(content=run)
