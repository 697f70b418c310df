# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Show the notebooks of tutorials/ as pages of the site, with text, code and committed outputs; execute nothing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

FOLDER = Path(__file__).resolve().parents[2] / "tutorials"


def on_config(config: Any) -> Any:
    """Put every notebook into the navigation."""
    pages = [f"tutorials/{notebook.stem}.md" for notebook in notebooks()]
    for section in config.nav:
        if "Tutorials" in section:
            section["Tutorials"] = pages
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each notebook, and its figures."""
    for notebook in notebooks():
        markdown, pictures = notebook_page(notebook)
        files.append(File.generated(config, f"tutorials/{notebook.stem}.md", content=markdown))
        for name, content in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def notebooks() -> list[Path]:
    """List the notebooks in the order of their numbers."""
    return sorted(FOLDER.glob("[0-9]*.ipynb"))


def notebook_page(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """Turn a notebook into Markdown and its figures into files, by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"````python\n{text}\n````")
        for output in cell["outputs"]:
            parts.append(_shown(output, notebook.stem, pictures))
    parts.append(f"This page shows the notebook `tutorials/{notebook.name}` of the repository.")
    return "\n\n".join(parts) + "\n", pictures


def _shown(output: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> str:
    data = output.get("data", {})
    if "image/png" not in data:
        text = "".join(output.get("text", data.get("text/plain", "")))
        return f"````text\n{text.rstrip()}\n````"
    name = f"{stem}_{len(pictures) + 1}.png"
    pictures[name] = base64.b64decode("".join(data["image/png"]))
    width = output["metadata"].get("image/png", {}).get("width")
    return f"![figure {len(pictures)}]({name})" + (f'{{ width="{width}" }}' if width else "")
