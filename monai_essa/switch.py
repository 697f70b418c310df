# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A value that turns something on or off: a command line gives text for ``false``, and text is true to Python."""

from __future__ import annotations

from typing import Any

__all__ = ["switch"]


def switch(name: str, value: Any) -> bool:
    """Give a value that is True or False, and refuse every other.

    Args:
        name: of the value, as the user gave it.
        value: what came.

    Returns:
        The same value.

    Raises:
        TypeError: if it is a text, as ``--name false`` of a bundle's command line gives, or a number.

    Example:
        >>> switch("deep", "false")
        Traceback (most recent call last):
        TypeError: deep: expected True or False, got 'false'; write it with a capital letter on a command line
    """
    if not isinstance(value, bool):
        raise TypeError(
            f"{name}: expected True or False, got {value!r}; write it with a capital letter on a command line"
        )
    return value
