# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa plan`: writes my_site.yaml for a site's scans and card, with a reason in each line."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_essa.cli.arguments import Commands, add_command, add_values_argument, config_values

__all__ = ["add_to"]

_NETWORKS = ("vit", "unetr", "swin_unetr", "segresnet")


def add_to(commands: Commands) -> None:
    """Add the command ``plan``."""
    parser = add_command(
        commands,
        "plan",
        _plan,
        "look at the scans, the labels and the card and write the file of a run that fits, with a reason in each line",
        "monai-essa plan scans --memory 12GB --hours 8 --pretrained vit.pt\n"
        "python -m monai.bundle run --args_file my_site.yaml",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="with a dataset.json, or with images in sub-folders")
    parser.add_argument("--memory", metavar="SIZE", help="of the card, as 12GB (default: what this computer has)")
    parser.add_argument("--hours", default="8", metavar="HOURS", help="for the whole run (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("my_site.yaml"), metavar="FILE", help="(default: %(default)s)")
    parser.add_argument("--stage", choices=("ssa", "segmentation"), help="(default: by the number of labels)")
    parser.add_argument("--network", choices=_NETWORKS, help="(default: that of the weights, else the bundle's)")
    parser.add_argument("--pretrained", type=Path, metavar="FILE", help="weights to start from")
    parser.add_argument("--adapter", type=Path, metavar="FILE", help="of an earlier stage, for segmentation")
    add_values_argument(parser, "the plan")


def _plan(arguments: argparse.Namespace) -> int:
    from monai_essa.planning.costs import bytes_of, this_computer
    from monai_essa.planning.facts import site_facts
    from monai_essa.planning.run import Wishes, plan_run, plan_text, write_plan
    from monai_essa.planning.site_list import site_list

    out, values = arguments.out, config_values(arguments.args)
    memory, hours = bytes_of(arguments.memory) if arguments.memory else None, _hours(arguments.hours)
    if out.exists():
        raise FileExistsError(f"{out} exists; expected a new file: give another --out or move it away")
    card = this_computer(out.parent, memory)
    print(f"card: {card.memory / 1e9:.1f} GB, {card.source}; a step may take {card.budget / 1e9:.2f} GB")
    wishes = Wishes(
        out, hours, arguments.stage, arguments.network, arguments.pretrained, arguments.adapter, values=values
    )
    with site_list(arguments.folder, out) as datalist:
        print(*(f"left out: {line}\n" for line in datalist.left_out), sep="", end="")
        plan = plan_run(wishes, site_facts(datalist.path), card)

    measured = "" if plan.measured is None else f"; measured on the card: {plan.measured / 1e9:.2f} GB"
    peak = f"peak of a training step: {plan.peak / 1e9:.2f} GB of {card.memory / 1e9:.1f} GB ({card.source}){measured}"
    text = plan_text(plan.config_files, plan.values, ["Written by monai-essa plan.", peak])
    write_plan(out, text)
    print(f"stage: {Path(plan.config_files[0].value).parts[-3]}")
    print(f"{text}wrote {out}; next: python -m monai.bundle run --args_file {out}")
    return 0


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < float("inf"):
        raise ValueError(f"--hours {text}: expected a number above 0, such as 8 or 0.5")
    return hours
