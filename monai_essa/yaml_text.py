# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Plain values as YAML that MONAI runs: written by a YAML writer, and read back before anybody sees the text.

MONAI executes what stands in such a file, and a part of it is told by data lists. So no text is put together by hand.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from monai_essa.outside import printable

__all__ = ["commented", "yaml_node", "yaml_text"]

_VERSION = "%YAML 1.1\n---\n"  # what MONAI's reader takes a file for that says no version


def yaml_node(value: Any) -> Any:
    """Return a plain value as a node that is written on one line, with escapes for what does not print.

    Args:
        value: numbers, text, None, and lists, tuples and mappings of them.

    Returns:
        A node that compares equal to the value, but for tuples, which become lists.
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
        comment: any text; what does not print, such as a line break, is written as its escape.
    """
    node.yaml_add_eol_comment(f"# {printable(comment)}", place, column=0)


def yaml_text(document: CommentedMap) -> str:
    """Write a document.

    Args:
        document: by key, nodes of :func:`yaml_node`.

    Returns:
        The text, which ``yaml.safe_load`` reads back as the document.

    Raises:
        ValueError: if it does not, because a value is of a kind that YAML does not hold.

    Example:
        >>> yaml_text(CommentedMap({"labels": yaml_node({"background": 0, "no": 1})}))
        "labels: {background: 0, 'no': 1}\\n"
    """
    writer = YAML()
    writer.Representer = _Representer
    writer.version = (1, 1)
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


class _Representer(RoundTripRepresenter):
    """Writes None as ``null``, which a reader sees, and not as nothing."""


_Representer.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)
