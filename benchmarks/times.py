# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Seconds of a training step, of several arms in turn, so that a noisy machine disturbs all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks.contenders import STOCK, Contender
from benchmarks.reference_work import ReferenceWork
from benchmarks.tables import Costs, markdown_table

__all__ = [
    "Seconds",
    "interleaved_seconds",
    "measured_peaks",
    "seconds_of",
    "step_seconds",
    "time_table",
    "training_step",
]

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


@dataclass(frozen=True)
class Seconds:
    """The times of one thing, a round after the other.

    Attributes:
        rounds: seconds of each round.

    Example:
        >>> Seconds((1.0, 2.0, 9.0)).ratio_to(Seconds((2.0, 4.0, 9.0)))
        0.5
    """

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle time."""
        return statistics.median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The times that a quarter of the rounds lie below and above."""
        if len(self.rounds) == 1:
            return self.rounds[0], self.rounds[0]
        low, _, high = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return low, high

    def ratio_to(self, other: Seconds) -> float:
        """Return the median of the ratios within a round: what slows a whole round cancels out.

        Args:
            other: timed in the same rounds.
        """
        return statistics.median(ours / theirs for ours, theirs in zip(self.rounds, other.rounds, strict=True))


def interleaved_seconds(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Seconds]:
    """Run each thing once a round, in the order given, after a round that is not timed.

    On CUDA the clock is read when the GPU is done.

    Args:
        runs: what is timed, by name.
        rounds: how often.
        clock: gives seconds.

    Returns:
        The times by name.

    Raises:
        ValueError: if there is no round.

    Example:
        >>> sorted(interleaved_seconds({"sum": lambda: sum(range(9)), "none": lambda: None}, rounds=2))
        ['none', 'sum']
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for timed in (False, *(True,) * rounds):
        for name, run in runs.items():
            seconds = seconds_of(run, clock)
            if timed:
                times[name].append(seconds)
    return {name: Seconds(tuple(own)) for name, own in times.items()}


def seconds_of(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time one call; on CUDA until the GPU is done."""
    _wait_for_gpu()
    begin = clock()
    run()
    _wait_for_gpu()
    return clock() - begin


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
