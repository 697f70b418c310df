# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Make the reference of the command line from what `monai-essa COMMAND --help` prints for every command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File

from monai_essa.cli import command_parser

PAGE = "reference/commands.md"
TITLE = "# Command line\n\nThe output of `monai-essa COMMAND --help` for every command.\n"


def on_files(files: Any, config: Any) -> Any:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=commands_page(command_parser())))
    return files


def commands_page(parser: argparse.ArgumentParser) -> str:
    """Write one section for each command of a parser, starting with the parser itself."""
    os.environ["COLUMNS"] = "100"  # the width at which argparse breaks lines
    sections = (f"## {command.prog}\n\n```text\n{command.format_help()}```\n" for command in every_command(parser))
    return "\n".join([TITLE, *sections])


def every_command(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parser and the parsers of its commands, at every depth."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from every_command(command)
