# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for timing in turns. The clock is a counter: no time passes."""

from __future__ import annotations

import pytest

from benchmarks.times import Seconds, interleaved_seconds, seconds_of


def test_each_round_runs_everything_once_after_a_round_that_does_not_count():
    order, now = [], [0.0]

    def run(name, seconds):
        def body():
            order.append(name)
            now[0] += seconds * (100 if len(order) <= 3 else 1)  # the first round is slow

        return body

    runs = {"a": run("a", 1), "b": run("b", 2), "c": run("c", 3)}
    times = interleaved_seconds(runs, rounds=2, clock=lambda: now[0])
    assert order == ["a", "b", "c"] * 3
    assert {name: own.rounds for name, own in times.items()} == {"a": (1, 1), "b": (2, 2), "c": (3, 3)}


def test_ratios_are_taken_within_a_round():
    busy = 50.0  # slows one whole round: the ratio does not see it
    ours, theirs = Seconds((1.0, 1.0, busy)), Seconds((2.0, 2.0, 2 * busy))
    assert ours.ratio_to(theirs) == 0.5
    assert Seconds((1.0, busy, busy)).ratio_to(Seconds((2.0, 2 * busy, 2 * busy))) == 0.5


def test_median_and_quartiles():
    seconds = Seconds((5.0, 1.0, 3.0, 2.0, 4.0))
    assert (seconds.median, seconds.quartiles) == (3.0, (2.0, 4.0))
    assert Seconds((7.0,)).quartiles == (7.0, 7.0)


def test_ratios_of_different_rounds_are_refused():
    with pytest.raises(ValueError, match="zip"):
        Seconds((1.0,)).ratio_to(Seconds((1.0, 2.0)))


def test_no_round_is_refused():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        interleaved_seconds({}, rounds=0)


def test_one_call_is_timed():
    ticks = iter([10.0, 12.5])
    assert seconds_of(lambda: None, lambda: next(ticks)) == 2.5
