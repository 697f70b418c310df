# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Names that matplotlib, a browser or a terminal would read as more than text."""

from __future__ import annotations

import pytest

NAMES = [
    "$x_{$",
    "$x$",
    r"$\undefined$",
    r"\$x_{\$$",
    "$" * 3,
    "aaaaaaaaaaa$x_{$ b$x_{$",
    "a\n$b_{$",
    "\x1b[2Ja",
    "\u202ea",
    "_hidden $a_{$",
    "<b>&amp;",
]


@pytest.fixture(params=NAMES, ids=ascii)
def odd_name(request: pytest.FixtureRequest) -> str:
    """A name of a class, a case or a method as a data list may give it."""
    return request.param
