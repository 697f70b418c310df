# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Add pages that lie elsewhere in the repository to the site, and rewrite links so that they work in both places.

Links are written as a code host follows them, relative to the file that contains them. For the site a link is rewritten
if its target has a page there. The names and signatures of the functions are those of MkDocs' hooks.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
_FETCHED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\s(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
BUNDLES = ("essa_ssa", "essa_tpp", "essa_segmentation", "essa_classification")


def page_of() -> dict[str, str]:
    """Return where the site shows each file of the repository that lies outside docs/."""
    places = {
        "CONTRIBUTING.md": "project/contributing.md",
        "CHANGELOG.md": "project/changelog.md",
        "SECURITY.md": "project/security.md",
        "CITATION.cff": "project/CITATION.cff",
        "LICENSE": "project/LICENSE.txt",
    }
    for name in BUNDLES:
        places[f"bundles/{name}/docs/README.md"] = f"bundles/{name}.md"
        places[f"bundles/{name}/docs/data_license.txt"] = f"bundles/{name}_data_license.txt"
        places[f"bundles/{name}/LICENSE"] = "project/LICENSE.txt"
        for picture in (ROOT / "bundles" / name / "docs").glob("*.png"):
            places[f"bundles/{name}/docs/{picture.name}"] = f"bundles/{picture.name}"
    for notebook in sorted((ROOT / "tutorials").glob("*.ipynb")):
        places[f"tutorials/{notebook.name}"] = f"tutorials/{notebook.stem}.md"
    return places


def on_files(files: Any, config: Any) -> Any:
    """Add the files that are shown as they are; notebook_pages.py turns notebooks into pages."""
    for source, place in page_of().items():
        if not source.endswith(".ipynb") and files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite links, and make the name of a bundle the only first-level heading of its README."""
    place = page.file.src_uri
    source = {there: here for here, there in page_of().items()}.get(place, f"docs/{place}")
    if place.startswith("bundles/"):
        markdown = f"# {Path(place).stem}\n\n" + lower_headings(markdown)
    return site_links(markdown, source, place)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page for which a browser would fetch something from elsewhere, since hospitals read it offline."""
    if found := _FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri}: {found[0]} is fetched from elsewhere; put the file into docs/")
    return output


def site_links(markdown: str, source: str, place: str) -> str:
    """Point the links of a file of the repository at the pages of their targets, relative to the page of the file."""
    places = page_of()

    def rewrite(match: re.Match[str]) -> str:
        path, mark, anchor = match[1].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if ":" in path or target not in places and source.startswith("docs/"):
            return match[0]  # on the web, or within docs/
        there = places.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(there, posixpath.dirname(place) or '.')}{mark}{anchor})"

    return re.sub(r"\]\(([^)\s#][^)\s]*)\)", rewrite, markdown)


def lower_headings(markdown: str) -> str:
    """Put one more # before each heading; lines of code blocks stay."""
    lines, code = [], False
    for line in markdown.splitlines():
        code ^= line.startswith("```")
        lines.append(f"#{line}" if re.match(r"#{1,5} ", line) and not code else line)
    return "\n".join(lines) + "\n"
