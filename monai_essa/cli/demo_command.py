# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa demo`: the whole path on a small cohort."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_essa.cli.arguments import Commands, add_command

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command ``demo``."""
    parser = add_command(
        commands,
        "demo",
        _demo,
        "pre-train, adapt and segment on a small template-derived cohort, with a report at the end",
        "monai-essa demo --output my_demo",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="an MSD-style folder to use in place of the cohort")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo"), metavar="DIR", help="a new folder (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the cohort and the runs (default: %(default)s)")


def _demo(arguments: argparse.Namespace) -> int:
    from monai_essa.demo import run_demo

    return run_demo(arguments.data, arguments.output, arguments.seed)
