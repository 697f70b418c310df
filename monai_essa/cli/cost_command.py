# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa cost`: what a training step costs, for networks, methods and recipes by name, without a GPU."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from monai_essa.cli.arguments import Commands, add_command

if TYPE_CHECKING:
    from monai_essa.cost.table import CostRow

__all__ = ["add_to"]

_HEADERS = ("method", "lean", "trainable", "saved", "gradients", "optimizer", "peak", "of full", "GFLOPs", "of full")
_MIB = 2**20


def add_to(commands: Commands) -> None:
    """Add the command ``cost``."""
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
    parser.add_argument("--objective", default="simmim", help="simmim, mae or segmentation (default: %(default)s)")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp16 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("cost"), metavar="DIR", help="(default: %(default)s)")


def _cost(arguments: argparse.Namespace) -> int:
    from monai_essa.cost.table import CostWork, cost_rows
    from monai_essa.report.tables import format_table

    if arguments.size < 1 or arguments.batch < 1:
        raise ValueError(f"expected a size and a batch of 1 or more, got {arguments.size} and {arguments.batch}")
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
