# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Turn the formulas of a page, in dollars as GitHub reads them, into MathML, which browsers draw without a script."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

# Code first, which may hold dollars of its own.
_PARTS = re.compile(r"```.*?```|`[^`\n]*`|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^\s$](?:[^$\n]*[^\s$])?)\$", re.DOTALL)


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Rewrite a page before Markdown is read."""
    return _PARTS.sub(_formula, markdown)


def _formula(found: re.Match[str]) -> str:
    if found["block"]:
        return convert(" ".join(found["block"].split()), display="block")
    return f"<span>{convert(found['inline'])}</span>" if found["inline"] else found[0]
