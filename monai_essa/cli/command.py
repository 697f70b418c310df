# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What every command has: a description, an example, --traceback, and the function that does its work."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

__all__ = ["Commands", "add_command", "add_family"]

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = argparse._SubParsersAction


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
) -> argparse.ArgumentParser:
    """Add one command.

    Args:
        commands: where it is added.
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
    """Add a name that only has commands below it, as ``data`` has ``check``.

    Args:
        commands: where it is added.
        name: what the user types.
        summary: what its commands do, in one sentence without a full stop.

    Returns:
        Where its commands are added.
    """
    parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
