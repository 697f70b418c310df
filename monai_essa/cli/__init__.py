# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The command line `monai-essa`: this module parses and reports errors; each family of commands has its own module.

Commands import what they need when they run, so that `monai-essa --help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import yaml

from monai_essa import __version__
from monai_essa.cli import (
    adapt_command,
    adapter_commands,
    bundle_commands,
    compare_command,
    data_commands,
    label_commands,
    plan_commands,
    run_commands,
    weights_commands,
)
from monai_essa.error_line import one_line

__all__ = ["command_parser", "main"]

_DESCRIPTION = """\
Adapt pretrained MONAI networks to unlabelled scans and few labels, by training a few tensors only.
Research software, not a medical device.

from your scans to a verdict:
  monai-essa adapt DIR --labels DIR --hours 8    what helps on your patients, and a bundle of it

from your scans to a model:
  monai-essa data datalist DIR --labels DIR      pair images with labels, split by patient
  monai-essa data check DIR/dataset.json         find what would go wrong
  monai-essa plan DIR --memory 12GB --hours 8    write my_site.yaml: what fits, and why
  monai-essa run --dry-run --args_file my_site.yaml
  python -m monai.bundle run --args_file my_site.yaml
"""
# What a wrong file, value or config raises. Anything else is a bug of this library and keeps its traceback.
_EXPECTED = (OSError, ValueError, LookupError, RuntimeError, ArithmeticError, ImportError, yaml.YAMLError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments; default: those of this process.

    Returns:
        The exit code: 0, or 1 after an error, which is one line on stderr.

    Raises:
        SystemExit: with code 2 if the arguments are wrong, 0 after ``--help``.

    Example:
        >>> main(["bundles", "list"])  # doctest: +SKIP
        0
    """
    parser = command_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not arguments.passes_on:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    if arguments.traceback:
        return arguments.run(arguments)
    try:
        return arguments.run(arguments)
    except _EXPECTED as error:
        print(f"monai-essa: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("monai-essa: interrupted", file=sys.stderr)
        return 130


def command_parser() -> argparse.ArgumentParser:
    """Build the parser of ``monai-essa`` with all its commands."""
    parser = argparse.ArgumentParser(
        prog="monai-essa", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"monai-essa {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.set_defaults(passes_on=False)  # a command may pass unknown arguments on to monai.bundle
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    first = (
        adapt_command,
        data_commands,
        weights_commands,
        plan_commands,
        bundle_commands,
        run_commands,
        compare_command,
    )
    for family in (*first, adapter_commands, label_commands):
        family.add_to(commands)
    run_commands.add_demo_to(commands)
    return parser
