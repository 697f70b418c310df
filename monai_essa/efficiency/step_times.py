# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What steps take on this machine, as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from monai_essa.efficiency.contenders import STOCK, Contender
from monai_essa.efficiency.counted_tables import Costs, markdown_table
from monai_essa.efficiency.reference_work import ReferenceWork
from monai_essa.efficiency.timed_steps import Seconds, interleaved_seconds

__all__ = ["measured_peaks", "step_seconds", "time_table", "training_step"]

_CLASSES = 14


def training_step(contender: Contender, work: ReferenceWork, device: torch.device) -> Callable[[], None]:
    """Make a function that takes a training step: forward, backward, optimizer.

    Args:
        contender: who trains.
        work: what is trained, on one batch of noise.
        device: where.
    """
    objective = contender.make(work).to(device).train()
    owner = contender.optimizer([parameter for parameter in objective.parameters() if parameter.requires_grad])
    images, *labels = (tensor.shape for tensor in work.inputs())
    batch = [torch.rand(images, device=device), *(torch.randint(_CLASSES, shape, device=device) for shape in labels)]

    def step() -> None:
        with torch.autocast(device.type, dtype=contender.autocast, enabled=contender.autocast is not None):
            loss = objective(*batch)["loss"]
        loss.backward()
        owner.step()
        owner.zero_grad(set_to_none=True)

    return step


def step_seconds(
    work: ReferenceWork, contenders: Sequence[Contender], rounds: int, device: torch.device
) -> dict[str, Seconds]:
    """Time a step of each contender, in turns.

    Args:
        work: what is trained.
        contenders: who trains it.
        rounds: how often each is timed.
        device: where.
    """
    return interleaved_seconds(
        {contender.name: training_step(contender, work, device) for contender in contenders}, rounds
    )


def time_table(work: ReferenceWork, times: dict[str, Seconds], costs: Costs, peaks: dict[str, int]) -> list[str]:
    """Write the times of a work beside its operations.

    Args:
        work: what was trained.
        times: by name of the contender.
        costs: what the same steps cost.
        peaks: measured peak bytes of a GPU, by name of the contender; empty on a CPU.
    """
    columns = ["training", "s per step", "quartiles", "time ratio", "FLOPs ratio", "images per s"]
    columns += ["measured peak, MiB", "peak ratio"] if peaks else []
    rows = []
    for name, seconds in times.items():
        low, high = seconds.quartiles
        row = [
            name,
            f"{seconds.median:.4f}",
            f"{low:.4f} to {high:.4f}",
            f"{seconds.ratio_to(times[STOCK.name]):.3f}",
            f"{costs[name].flops / costs[STOCK.name].flops:.3f}",
            f"{work.batch / seconds.median:.2f}",
        ]
        rows.append(row + ([f"{peaks[name] / 2**20:.0f}", f"{peaks[name] / peaks[STOCK.name]:.3f}"] if peaks else []))
    return [*markdown_table(columns, rows), ""]


def measured_peaks(work: ReferenceWork, contenders: Sequence[Contender], device: torch.device) -> dict[str, int]:
    """Measure the peak of a GPU in the second step of each contender, alone on it; nothing on a CPU.

    Args:
        work: what is trained.
        contenders: who trains it.
        device: where.

    Returns:
        Bytes by name of the contender.
    """
    peaks = {}
    for contender in contenders if device.type == "cuda" else ():
        step = training_step(contender, work, device)
        step()
        torch.cuda.reset_peak_memory_stats(device)
        step()
        peaks[contender.name] = torch.cuda.max_memory_allocated(device)
        del step
    return peaks
