# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The parts that make the site of what lies elsewhere: notebooks, help texts, docstrings, links."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.shown_commands import ROOT

pytest.importorskip("mkdocs", reason="the extra docs is not installed")


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_notebook_becomes_a_page_with_its_figures(tmp_path: Path) -> None:
    outputs = [
        {"output_type": "stream", "text": ["a line\n"]},
        {"data": {"image/png": "iVBORw==", "text/plain": "<Image>"}, "metadata": {"image/png": {"width": 560}}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["x = 1"], "outputs": outputs},
    ]
    notebook = tmp_path / "1_first.ipynb"
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    page, pictures = hook("notebook_pages").notebook_page(notebook)
    assert page.startswith("# Title\n\n````python\nx = 1\n````\n\n````text\na line\n````\n\n")
    assert '![figure 1](1_first_1.png){ width="560" }' in page and "<Image>" not in page
    assert pictures == {"1_first_1.png": b"\x89PNG"}


def test_every_notebook_is_in_the_navigation() -> None:
    config = argparse.Namespace(nav=[{"Home": "index.md"}, {"Tutorials": []}])
    hook("notebook_pages").on_config(config)
    expected = [f"tutorials/{path.stem}.md" for path in sorted((ROOT / "tutorials").glob("*.ipynb"))]
    assert config.nav[1]["Tutorials"] == expected and expected


def test_the_command_line_is_its_own_reference() -> None:
    parser = argparse.ArgumentParser(prog="tool")
    parser.add_subparsers().add_parser("do").add_argument("--much", help="how much")
    page = hook("command_pages").commands_page(parser)
    assert page.index("## tool\n") < page.index("## tool do\n") < page.index("how much")


@pytest.mark.parametrize(
    ("link", "source", "place", "expected"),
    [
        ("../label.md#install", "docs/how-to/a.md", "how-to/a.md", "../label.md#install"),
        ("../../CONTRIBUTING.md#tests", "docs/how-to/a.md", "how-to/a.md", "../project/contributing.md#tests"),
        ("../../bundles/essa_ssa/docs/README.md", "docs/how-to/a.md", "how-to/a.md", "../bundles/essa_ssa.md"),
        ("../LICENSE", "bundles/essa_ssa/docs/README.md", "bundles/essa_ssa.md", "../project/LICENSE.txt"),
        (
            "3_tpp_few_labels.ipynb",
            "tutorials/1_quick_start.ipynb",
            "tutorials/1_quick_start.md",
            "3_tpp_few_labels.md",
        ),
        ("https://arxiv.org/abs/2503.18873", "docs/a.md", "a.md", "https://arxiv.org/abs/2503.18873"),
    ],
)
def test_links_of_the_repository_lead_to_pages_of_the_site(link: str, source: str, place: str, expected: str) -> None:
    assert hook("repository_pages").site_links(f"[text]({link})", source, place) == f"[text]({expected})"


def test_headings_of_a_bundle_are_lowered_but_code_is_not() -> None:
    assert hook("repository_pages").lower_headings("# A\n```\n# b\n```\n## C\n") == "## A\n```\n# b\n```\n### C\n"


def test_a_page_that_fetches_a_script_is_refused() -> None:
    pages = hook("repository_pages")
    page = argparse.Namespace(file=argparse.Namespace(src_uri="a.md"))
    local = '<script src="assets/a.js"></script><a href="https://arxiv.org">paper</a>'
    assert pages.on_post_page(local, page, None) == local
    with pytest.raises(Exception, match="is fetched from elsewhere"):
        pages.on_post_page('<script defer src="https://cdn.example.org/a.js"></script>', page, None)


def test_docstrings_become_markdown() -> None:
    pytest.importorskip("latex2mathml")
    text = "Rows of :math:`W_O`, see :class:`~monai_essa.methods.APLA`.\n\nExample:\n    >>> 1\n    1\n"
    page = hook("docstring_marks").markdown_docstring(text)
    assert page.startswith("Rows of <span><math") and "`monai_essa.methods.APLA`" in page
    assert "\nExamples:\n" in page and ":math:" not in page


def test_formulas_of_a_page_are_drawn_and_code_is_left_alone() -> None:
    pytest.importorskip("latex2mathml")
    page = hook("formulas").on_page_markdown(
        "At $\\tau = 0.04$:\n\n$$ a\n+ b $$\n\n```bash\nls $A $B\n```\nand `$@x` `$y`"
    )
    assert page.count("<math") == 2 and "$\\tau" not in page and 'display="block"' in page
    assert "ls $A $B" in page and "`$@x` `$y`" in page
