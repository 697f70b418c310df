# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Changes top-level entries of a YAML config in its text, so that order and comments stay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from ruamel.yaml.comments import CommentedMap

from monai_essa.outside import printable
from monai_essa.yaml_text import yaml_node, yaml_text

__all__ = ["config_entries", "entry_text", "replace_entries"]

_KEY = re.compile(r"""^(?:'([^']+)'|"([^"]+)"|([^\s#'"\-][^:]*?)):(?:\s|$)""")
_HEADING = "# ----"


@dataclass
class _Entry:
    """Lines of the file that begin with an entry; what follows it, up to the next one, are headings and blank lines."""

    key: str  # empty for what stands before the first entry
    lines: list[str]
    after: list[str]


def config_entries(text: str) -> dict[str, str]:
    """Split a config into its top-level entries.

    Args:
        text: of a YAML file whose top level is a block mapping.

    Returns:
        The text of each entry by its key, with the comment lines directly above it.

    Example:
        >>> config_entries("# voxels\\nimg_size: [96, 96]\\nlr: 1.0e-3\\n")
        {'img_size': '# voxels\\nimg_size: [96, 96]\\n', 'lr': 'lr: 1.0e-3\\n'}
    """
    return {entry.key: "".join(entry.lines) for entry in _entries(text) if entry.key}


def entry_text(key: str, value: Any) -> str:
    """Write an entry.

    Args:
        key: of the entry.
        value: plain values, lists and dictionaries.

    Returns:
        One line.

    Raises:
        ValueError: if YAML does not hold the value.

    Example:
        >>> entry_text("labels", {"background": 0, "spleen": 1})
        'labels: {background: 0, spleen: 1}\\n'
    """
    return yaml_text(CommentedMap({key: yaml_node(value)}))


def replace_entries(text: str, entries: Mapping[str, str]) -> str:
    """Put entries in the place of those with the same key; new ones go to the end.

    Args:
        text: of the config.
        entries: by key, as :func:`config_entries` gives them.

    Returns:
        The new text. It reads as the old one with these entries, and nothing else, replaced.

    Raises:
        ValueError: if it does not: a line of an entry was taken for an entry of its own.
    """
    parts = _entries(text)
    for part in parts:
        if part.key in entries:
            part.lines = [entries[part.key]]
    new = [entry for key, entry in entries.items() if key not in {part.key for part in parts}]
    replaced = "".join(["".join(part.lines + part.after) for part in parts] + new)
    wanted = yaml.safe_load(text) | {key: yaml.safe_load(entry)[key] for key, entry in entries.items()}
    if yaml.safe_load(replaced) != wanted:
        raise ValueError(f"expected entries that stand for themselves under {', '.join(map(printable, entries))}")
    return replaced


def _entries(text: str) -> list[_Entry]:
    parts = [_Entry("", [], [])]
    for line in text.splitlines(keepends=True):
        match = _KEY.match(line)
        if match:
            above = _comment_above(parts[-1].after)
            parts.append(_Entry(next(filter(None, match.groups())), [*above, line], []))
        elif line.startswith("#") or not line.strip():
            parts[-1].after.append(line)
        else:  # a comment between indented lines belongs to their entry
            parts[-1].lines += [*parts[-1].after, line]
            parts[-1].after = []
    return parts


def _comment_above(lines: list[str]) -> list[str]:
    """Take the comment that ends the lines off them."""
    start = len(lines)
    while start and lines[start - 1].startswith("#") and not lines[start - 1].startswith(_HEADING):
        start -= 1
    above = lines[start:]
    del lines[start:]
    return above
