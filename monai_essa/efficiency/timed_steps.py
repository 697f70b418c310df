# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Time several things in turns, so that what else a machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

__all__ = ["Seconds", "interleaved_seconds", "seconds_of"]


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
        """Give the median of the ratios within a round: what slows a whole round cancels out.

        Args:
            other: timed in the same rounds.
        """
        return statistics.median(ours / theirs for ours, theirs in zip(self.rounds, other.rounds, strict=True))


def interleaved_seconds(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Seconds]:
    """Run each thing once a round, in the order given, after a round that is not timed.

    On CUDA the clock is read when the card is done.

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
    """Time one call; on CUDA until the card is done."""
    _wait_for_card()
    begin = clock()
    run()
    _wait_for_card()
    return clock() - begin


def _wait_for_card() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
