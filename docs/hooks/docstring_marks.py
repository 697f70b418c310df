# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Rewrite docstrings for mkdocstrings: roles become code, formulas become MathML, examples become code blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

_FORMULA = re.compile(r"^( *)\.\. math:: (.*(?:\n\1 +.*)*)", re.MULTILINE)


class DocstringMarks(griffe.Extension):
    """Rewrites docstrings before mkdocstrings reads their sections."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = markdown_docstring(obj.docstring.value)


def markdown_docstring(text: str) -> str:
    """Turn formulas into MathML, which browsers draw without a script, and other roles into code."""
    text = _FORMULA.sub(lambda found: found[1] + convert(" ".join(found[2].split()), display="block"), text)
    text = re.sub(r":math:`([^`]+)`", lambda found: f"<span>{convert(' '.join(found[1].split()))}</span>", text)
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
