# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Values that a user sets over those of a config: KEY=VALUE on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

__all__ = ["add_values_argument", "config_values"]


def add_values_argument(parser: argparse.ArgumentParser, of: str) -> None:
    """Add ``--args KEY=VALUE ...``.

    Args:
        parser: of the command.
        of: the config whose values are set, for the help text.
    """
    parser.add_argument(
        "--args",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help=f'values over those of {of}, as "img_size=[64,64,64]"; nested ones as a#b=1',
    )


def config_values(pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs as ``python -m monai.bundle`` reads its options.

    Args:
        pairs: as typed.

    Returns:
        The values by config id; what is no Python literal is text.

    Raises:
        ValueError: if a pair has no ``=`` or no key.

    Example:
        >>> config_values(["img_size=[64,64,64]", "section=source#training"])
        {'img_size': [64, 64, 64], 'section': 'source#training'}
    """
    from fire.parser import DefaultParseValue

    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ValueError(f"--args {pair}: expected KEY=VALUE, as img_size=[64,64,64]")
        # Python reads "#" as the start of a comment; in a config it separates the parts of an id.
        values[key] = value if "#" in value else DefaultParseValue(value)
    return values
