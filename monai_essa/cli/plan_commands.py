# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa cost` and `monai-essa plan`: what training costs, and a run that fits a site's scans and card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from monai_essa.cli.arguments import OBJECTIVES, Commands, add_command, add_values_argument, config_values
from monai_essa.outside import Number

if TYPE_CHECKING:
    from monai_essa.cost.table import CostRow

__all__ = ["add_to"]

_HEADERS = ("method", "lean", "trainable", "saved", "gradients", "optimizer", "peak", "of full", "GFLOPs", "of full")
_MIB = 2**20
_LARGEST = 10_000  # voxels along a side, and crops in a step: no card holds as much
_NETWORKS = ("vit", "unetr", "swin_unetr", "segresnet")


def add_to(commands: Commands) -> None:
    """Add the commands ``cost`` and ``plan``."""
    _add_cost(commands)
    _add_plan(commands)


def _add_cost(commands: Commands) -> None:
    parser = add_command(
        commands,
        "cost",
        _cost,
        "measure the memory and arithmetic of a training step on fake tensors, on any computer in seconds",
        "monai-essa cost --network vit_b --size 96 --batch 16 --methods full,apla,apla:0.25,lora,bitfit",
    )
    parser.add_argument("--network", default="vit_b", metavar="NAME", help="vit_s, vit_b, vit_l, unetr_b, swin_unetr")
    parser.add_argument("--size", type=int, default=96, help="voxels along each side of a crop (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="crops in a step (default: %(default)s)")
    parser.add_argument("--methods", default="full,apla,apla:0.25,lora,bitfit", help="(default: %(default)s)")
    parser.add_argument("--lean", default="fast,small", help="recipes: none, fast, small (default: %(default)s)")
    parser.add_argument(
        "--objective",
        default="simmim",
        help="simmim, mae, dinov2, contrastive, diet or segmentation (default: %(default)s)",
    )
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp16 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("cost"), metavar="DIR", help="(default: %(default)s)")


def _cost(arguments: argparse.Namespace) -> int:
    from monai_essa.cost.table import CostWork, cost_rows
    from monai_essa.report.tables import format_table

    for name in ("size", "batch"):
        Number(1, _LARGEST, whole=True).check(getattr(arguments, name), f"--{name}")
    work = CostWork(arguments.network, arguments.size, arguments.batch, arguments.objective, arguments.precision)
    rows = cost_rows(work, arguments.methods.split(","), arguments.lean.split(","))
    print(f"{work.network}, {work.objective}, crops of {work.size}, batch {work.batch}, {work.precision}; MiB")
    print(format_table(_HEADERS, [_cells(row, rows[0]) for row in rows]))
    _print_measured(rows)

    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "cost.json"
    records = [{"method": row.method, "lean": row.recipe, **row.record} for row in rows]
    path.write_text(json.dumps({"work": vars(work), "rows": records}, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}{_draw(rows, arguments.out / 'cost.png', work.network)}")
    return 0


def _cells(row: CostRow, first: CostRow) -> list[str]:
    cost, full = row.cost, first.cost
    sizes = (cost.saved_bytes, cost.gradient_bytes, cost.optimizer_bytes, cost.peak_bytes)
    return [
        row.method,
        row.recipe,
        f"{cost.trainable / 1e6:.2f} M",
        *(f"{size / _MIB:,.0f}" for size in sizes),
        f"{cost.peak_bytes / full.peak_bytes:.2f}",
        f"{cost.flops / 1e9:,.0f}",
        f"{cost.flops / full.flops:.2f}",
    ]


def _print_measured(rows: list[CostRow]) -> None:
    for row in rows:
        step = row.measured
        if step is not None and step.peak_bytes is not None:
            seconds = (step.forward_seconds, step.backward_seconds, step.optimizer_seconds)
            parts = " + ".join(f"{1e3 * part:.1f}" for part in seconds)
            print(
                f"{row.method}, {row.recipe}: measured {step.peak_bytes / _MIB:,.0f} MiB, "
                f"{step.images_per_second:.1f} images/s, {parts} ms forward + backward + optimizer"
            )


def _draw(rows: list[CostRow], path: Path, network: str) -> str:
    from monai_essa.report.charts import cost_bars, figure_png

    costs = {row.method if row is rows[0] else f"{row.method}, {row.recipe}": row.record for row in rows}
    try:
        figure = cost_bars(costs, f"Peak memory of a training step, {network}")
    except ImportError as error:
        return f"; no figure: {error}"
    path.write_bytes(figure_png(figure))
    return f" and {path}"


def _add_plan(commands: Commands) -> None:
    parser = add_command(
        commands,
        "plan",
        _plan,
        "look at the scans, the labels and the card and write the file of a run that fits, with a reason in each line",
        "monai-essa plan scans --memory 12GB --hours 8 --pretrained vit.pt\n"
        "python -m monai.bundle run --args_file my_site.yaml",
    )
    parser.add_argument(
        "scans", type=Path, metavar="SCANS", help="a folder with a dataset.json or datalist.json, or with images"
    )
    parser.add_argument("--labels", type=Path, metavar="DIR", help="where the label maps are (default: under SCANS)")
    parser.add_argument("--datalist", type=Path, metavar="FILE", help="the data list (default: that of the folder)")
    parser.add_argument("--memory", metavar="SIZE", help="of the card, as 12GB (default: what this computer has)")
    parser.add_argument("--hours", default="8", metavar="HOURS", help="for the whole run (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("my_site.yaml"), metavar="FILE", help="(default: %(default)s)")
    parser.add_argument("--stage", choices=("ssa", "segmentation", "classification"), help="(default: by the labels)")
    parser.add_argument("--network", choices=_NETWORKS, help="(default: that of the weights, else the bundle's)")
    parser.add_argument("--objective", choices=OBJECTIVES, help="of self-supervision (default: the bundle's own)")
    parser.add_argument("--pretrained", type=Path, metavar="FILE", help="weights to start from")
    parser.add_argument("--adapter", type=Path, metavar="FILE", help="of an earlier stage, for segmentation")
    add_values_argument(parser, "the plan")


def _plan(arguments: argparse.Namespace) -> int:
    from monai_essa.planning.choices import bytes_of, this_computer
    from monai_essa.planning.run import Wishes, plan_run, plan_text, write_plan
    from monai_essa.planning.site import site_facts, site_list

    out, values = arguments.out, config_values(arguments.args)
    memory, hours = bytes_of(arguments.memory) if arguments.memory else None, _hours(arguments.hours)
    if out.exists():
        raise FileExistsError(f"{out} exists; expected a new file: give another --out or move it away")
    card = this_computer(out.parent, memory)
    print(f"card: {card.memory / 1e9:.1f} GB, {card.source}; a step may take {card.budget / 1e9:.2f} GB")
    wishes = Wishes(
        out,
        hours,
        arguments.stage,
        arguments.network,
        arguments.pretrained,
        arguments.adapter,
        values=values,
        objective=arguments.objective,
    )
    with site_list(arguments.datalist or arguments.scans, out, arguments.labels) as datalist:
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
