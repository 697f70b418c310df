# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the commands share: how one is added to the parser, config values on the command line, and counts in text."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

__all__ = ["OBJECTIVES", "Commands", "add_command", "add_family", "add_values_argument", "config_values", "counted"]

OBJECTIVES = ("mae", "simmim", "dinov2", "contrastive", "diet")
"""Of self-supervision, as the overlays of the bundles are called."""

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = argparse._SubParsersAction


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
) -> argparse.ArgumentParser:
    """Add one command.

    Args:
        commands: the commands to add it to.
        name: what the user types.
        run: called with the parsed arguments; returns the exit code.
        summary: what it does, in one sentence without a full stop.
        example: lines that can be typed as they are.

    Returns:
        The command's parser, for its own arguments.
    """
    indented = "\n".join(f"  {line}" for line in example.splitlines())
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n{indented}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # Suppressed, since a default here would overwrite `monai-essa --traceback COMMAND`.
    parser.add_argument(
        "--traceback", action="store_true", default=argparse.SUPPRESS, help="show where an error came from"
    )
    parser.set_defaults(run=run)
    return parser


def add_family(commands: Commands, name: str, summary: str) -> Commands:
    """Add a name that only groups commands, such as ``data`` with ``check``.

    Args:
        commands: the commands to add it to.
        name: what the user types.
        summary: what its commands do, in one sentence without a full stop.

    Returns:
        The commands of the family, to add further ones to.
    """
    parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_values_argument(parser: argparse.ArgumentParser, of: str) -> None:
    """Add ``--args KEY=VALUE ...``.

    Args:
        parser: parser of the command.
        of: name of the config whose values are set, for the help text.
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
        pairs: the pairs as typed.

    Returns:
        The values by config id; a value that is not a Python literal is text.

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
            raise ValueError(f"{pair}: expected KEY=VALUE, as img_size=[64,64,64]")
        # Python reads "#" as the start of a comment; in a config it separates the parts of an id.
        values[key] = value if "#" in value else DefaultParseValue(value)
    return values


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one.

    Example:
        >>> counted(2, "file")
        '2 files'
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
