# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What steps cost in memory and operations, counted on fake tensors, as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from benchmarks.contenders import COUNTED, STOCK, Contender
from benchmarks.reference_work import ReferenceWork
from benchmarks.scale import Growth
from monai_essa.cost.meter import StepCost, step_cost

__all__ = ["Costs", "cost_tables", "costs_of", "growth_table", "markdown_table", "meta_inputs", "target_table"]

Costs = dict[str, StepCost]

_MIB = 2**20
_GROWING = ("ours, APLA, fast", "ours, APLA, small")
_COST_COLUMNS = (
    "training",
    "trainable, M",
    "saved, MiB",
    "gradients and optimizer, MiB",
    "peak, MiB",
    "peak ratio",
    "GFLOPs",
    "FLOPs ratio",
)
# Work, contender, and what was aimed at as a share of MONAI's full-parameter training: peak, operations.
_TARGETS = (
    ("ViT-B/16, reconstruction head", "ours, APLA, fast", 0.50, 0.71),
    ("ViT-B/16, reconstruction head", "ours, APLA, small", 0.26, 0.91),
    ("ViT-B/16, reconstruction head", "ours, APLA, small bf16", 0.19, 0.91),
    ("MAE ViT-B/16, decoder trained", "ours, APLA, small", 0.35, 0.95),
    ("SwinUNETR-48, decoder frozen", "ours, APLA, small", 0.36, 0.65),
    ("UNETR-B, decoder frozen", "ours, APLA, small", 0.45, 0.72),
)


def costs_of(work: ReferenceWork, contenders: Iterable[Contender] = COUNTED, side: int = 96) -> Costs:
    """Count a step of each contender.

    Args:
        work: what is trained.
        contenders: who trains it.
        side: voxels along each axis of the images.

    Returns:
        The costs by name of the contender.
    """
    return {
        contender.name: step_cost(
            contender.make(work), *meta_inputs(work, side), optimizer=contender.optimizer, autocast=contender.autocast
        )
        for contender in contenders
    }


def meta_inputs(work: ReferenceWork, side: int) -> tuple[torch.Tensor, ...]:
    """Return a batch of a work for volumes of a side, on the meta device."""
    return tuple(tensor.new_empty(*tensor.shape[:-3], side, side, side) for tensor in work.inputs())


def cost_tables(costs: dict[str, Costs], batches: dict[str, int]) -> list[str]:
    """Write a table for each work: who trains it, and what a step costs.

    Args:
        costs: by name of the work.
        batches: images in a step, by name of the work.
    """
    lines = []
    for name, own in costs.items():
        stock = own[STOCK.name]
        rows = [_cost_row(contender, cost, stock) for contender, cost in own.items()]
        lines += [f"### {name}, batch {batches[name]}", "", *markdown_table(_COST_COLUMNS, rows), ""]
    return lines


def _cost_row(name: str, cost: StepCost, stock: StepCost) -> tuple[str, ...]:
    return (
        name,
        f"{cost.trainable / 1e6:.2f}",
        f"{cost.saved_bytes / _MIB:.0f}",
        f"{(cost.gradient_bytes + cost.optimizer_bytes) / _MIB:.1f}",
        f"{cost.peak_bytes / _MIB:.0f}",
        f"{cost.peak_bytes / stock.peak_bytes:.3f}",
        f"{cost.flops / 1e9:.1f}",
        f"{cost.flops / stock.flops:.3f}",
    )


def target_table(costs: dict[str, Costs]) -> list[str]:
    """Set what was reached beside what was aimed at, for the works that were counted.

    Args:
        costs: by name of the work.
    """
    columns = ("work", "training", "peak ratio", "aimed at", "", "FLOPs ratio", "aimed at", "")
    rows = []
    for work, contender, peak, flops in _TARGETS:
        if work in costs:
            ours, stock = costs[work][contender], costs[work][STOCK.name]
            reached = ours.peak_bytes / stock.peak_bytes, ours.flops / stock.flops
            rows.append((work, contender, *_beside(reached[0], peak), *_beside(reached[1], flops)))
    return [*markdown_table(columns, rows), ""] if rows else []


def _beside(reached: float, target: float) -> tuple[str, str, str]:
    return f"{reached:.3f}", f"{target:.2f}", "met" if reached <= target else f"missed by {reached - target:.3f}"


def growth_table(growth: Growth) -> list[str]:
    """Write the peak of a step against the side of the volume.

    Args:
        growth: the network and the sides.
    """
    chosen = [contender for contender in COUNTED if contender.name in (STOCK.name, *_GROWING)]
    rows = []
    for side in growth.sides:
        costs = costs_of(growth.work(side), chosen, side)
        stock = costs[STOCK.name].peak_bytes
        ratios = (f"{costs[name].peak_bytes / _MIB:.0f} ({costs[name].peak_bytes / stock:.3f})" for name in _GROWING)
        rows.append((str(side), f"{stock / _MIB:.0f}", *ratios))
    columns = ("side", f"{STOCK.name}, MiB", *(f"{name}, MiB (ratio)" for name in _GROWING))
    return [f"### {growth.name}, batch 1", "", *markdown_table(columns, rows), ""]


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write rows as the lines of a Markdown table.

    Example:
        >>> markdown_table(("a", "b"), [("1", "2")])
        ['| a | b |', '| --- | --- |', '| 1 | 2 |']
    """
    return [f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *rows)]
