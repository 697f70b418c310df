# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Write values as YAML that no config parser evaluates, and edit configs without losing comments.

ruamel.yaml writes the values and finds the entries. A config is then edited as text at the places that it found, since
its own round trip would join the lines of each flow mapping that is wrapped.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from monai_essa.outside import printable

__all__ = ["commented", "config_entries", "entry_text", "replace_entries", "yaml_node", "yaml_text"]

_VERSION = "%YAML 1.1\n---\n"
_HEADING = "# ----"


def yaml_node(value: Any) -> Any:
    """Return a plain value as a node that is written on one line, with escapes for what does not print.

    Args:
        value: numbers, text, None, and lists, tuples and mappings of them.

    Returns:
        A node that equals the value, except that tuples become lists.
    """
    if isinstance(value, Mapping):
        mapping = CommentedMap((yaml_node(key), yaml_node(item)) for key, item in value.items())
        mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, (list, tuple)):
        sequence = CommentedSeq(map(yaml_node, value))
        sequence.fa.set_flow_style()
        return sequence
    return DoubleQuotedScalarString(value) if isinstance(value, str) and not value.isprintable() else value


def commented(node: CommentedMap | CommentedSeq, place: Any, comment: str) -> None:
    """Set a comment at the end of the line of an entry.

    Args:
        node: the mapping or list.
        place: the entry's key or number.
        comment: any text; unprintable characters, such as line breaks, are written as escapes.
    """
    node.yaml_add_eol_comment(f"# {printable(comment)}", place, column=0)


def yaml_text(document: CommentedMap) -> str:
    """Write a document.

    Args:
        document: nodes of :func:`yaml_node` by key.

    Returns:
        The text, which ``yaml.safe_load`` reads back as the document.

    Raises:
        ValueError: if it would not, because YAML cannot hold a value.

    Example:
        >>> yaml_text(CommentedMap({"labels": yaml_node({"background": 0, "no": 1})}))
        "labels: {background: 0, 'no': 1}\\n"
    """
    writer = _yaml()
    writer.Representer = _Representer
    writer.width = 10**6
    stream = io.StringIO()
    try:
        writer.dump(document, stream)
        text = stream.getvalue().removeprefix(_VERSION)
        same = yaml.safe_load(text) == document
    except (YAMLError, yaml.YAMLError):
        same = False
    if not same:
        raise ValueError(f"expected plain values that YAML holds under {', '.join(map(printable, map(str, document)))}")
    return text


def config_entries(text: str) -> dict[str, str]:
    """Split a config into its top-level entries.

    Args:
        text: text of a YAML file whose top level is a block mapping.

    Returns:
        The text of each entry by its key, with the comment lines directly above it.

    Raises:
        ValueError: if the text is not YAML, or its top level is not a block mapping.

    Example:
        >>> config_entries("# voxels\\nimg_size: [96, 96]\\nlr: 1.0e-3\\n")
        {'img_size': '# voxels\\nimg_size: [96, 96]\\n', 'lr': 'lr: 1.0e-3\\n'}
    """
    return {entry.key: entry.text for entry in _entries(text) if entry.key}


def entry_text(key: str, value: Any) -> str:
    """Write an entry.

    Args:
        key: key of the entry.
        value: plain values, lists and dictionaries.

    Returns:
        One line.

    Raises:
        ValueError: if YAML cannot hold the value.

    Example:
        >>> entry_text("labels", {"background": 0, "spleen": 1})
        'labels: {background: 0, spleen: 1}\\n'
    """
    return yaml_text(CommentedMap({key: yaml_node(value)}))


def replace_entries(text: str, entries: Mapping[str, str]) -> str:
    """Replace the entries with the same keys, and append the others at the end.

    Args:
        text: text of the config.
        entries: the new entries by key, as :func:`config_entries` returns them.

    Returns:
        The new text; a YAML reader finds these entries, and no others, changed.

    Raises:
        ValueError: if a reader would find other changes, because the text of an entry holds more than that entry.
    """
    parts = _entries(text)
    for part in parts:
        if part.key in entries:
            part.text = entries[part.key]
    new = [entry for key, entry in entries.items() if key not in {part.key for part in parts}]
    replaced = "".join([part.text + part.after for part in parts] + new)
    wanted = yaml.safe_load(text) | {key: yaml.safe_load(entry)[key] for key, entry in entries.items()}
    if yaml.safe_load(replaced) != wanted:
        raise ValueError(f"expected entries that stand for themselves under {', '.join(map(printable, entries))}")
    return replaced


class _Representer(RoundTripRepresenter):
    """Write None as ``null``, which a person notices, rather than as nothing."""


@dataclass
class _Entry:
    """An entry of a config, and the headings and blank lines that separate it from the next one."""

    key: str  # empty for what stands before the first entry
    text: str
    after: str


def _entries(text: str) -> list[_Entry]:
    starts = _starts(text)
    ends = [*(start for _, start in starts), len(text)]
    parts, above = [], ""
    for (key, start), end in zip([("", 0), *starts], ends, strict=True):
        lines = text[start:end].splitlines(keepends=True)
        after = _take_last(lines, lambda line: line.startswith("#") or not line.strip())
        # A comment belongs to the entry below it; none is below the last one.
        below = _take_last(after, _is_comment) if end < len(text) else []
        parts.append(_Entry(key, above + "".join(lines), "".join(after)))
        above = "".join(below)
    return parts


def _starts(text: str) -> list[tuple[str, int]]:
    """Return each key with the place in the text at which its line begins."""
    try:
        root = _yaml().compose(text)
    except YAMLError as error:
        raise ValueError(f"expected a config that ruamel.yaml reads, got {error}") from error
    if root is None:  # comments only
        return []
    if not isinstance(root, MappingNode) or root.flow_style:
        raise ValueError("expected a config with one entry a line, got another kind of YAML; write 'key: value' lines")
    return [(str(key.value), key.start_mark.index - key.start_mark.column) for key, _ in root.value]


def _is_comment(line: str) -> bool:
    return line.startswith("#") and not line.startswith(_HEADING)


def _take_last(lines: list[str], fits: Callable[[str], bool]) -> list[str]:
    """Remove the longest run of fitting lines from the end of a list, and return it."""
    last = [*takewhile(fits, reversed(lines))][::-1]
    del lines[len(lines) - len(last) :]
    return last


def _yaml() -> YAML:
    settings = YAML()
    settings.version = (1, 1)  # as MONAI's reader takes a file that says no version
    return settings


_Representer.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)
