# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for timed steps. What a clock says is not tested."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from benchmarks.contenders import STOCK, Contender, timed_contenders
from benchmarks.scale import quick_scale
from benchmarks.times import Seconds, measured_peaks, step_seconds, time_table, training_step

TINY = quick_scale().timed[0]
CPU = torch.device("cpu")


def test_a_step_moves_what_learns_and_nothing_else():
    objective = timed_contenders()[6].make(TINY)
    before = {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}
    training_step(Contender("it", lambda _: objective), TINY, CPU)()
    for name, parameter in objective.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
        assert parameter.grad is None


def test_a_labelled_work_gets_class_numbers():
    seen = []

    class Watched(torch.nn.Linear):
        def forward(self, images, labels):
            seen.append((images.shape, labels.dtype, int(labels.max())))
            return {"loss": super().forward(images.mean().reshape(1, 1)).sum()}

    training_step(Contender("it", lambda _: Watched(1, 1)), quick_scale().works[1], CPU)()
    assert seen == [((1, 1, 96, 96, 96), torch.int64, 13)]


def test_all_contenders_are_timed_in_the_same_rounds():
    contenders = timed_contenders()[5:7]
    times = step_seconds(TINY, contenders, 1, CPU)
    assert list(times) == [contender.name for contender in contenders]
    assert {len(own.rounds) for own in times.values()} == {1}


def test_rows_hold_ratios_to_stock():
    times = {STOCK.name: Seconds((2.0, 4.0)), "ours": Seconds((1.0, 2.0))}
    costs = {STOCK.name: SimpleNamespace(flops=10), "ours": SimpleNamespace(flops=7)}
    lines = time_table(TINY, times, costs, {})
    assert lines[3] == "| ours | 1.5000 | 1.2500 to 1.7500 | 0.500 | 0.700 | 1.33 |"
    with_peaks = time_table(TINY, times, costs, {STOCK.name: 2**22, "ours": 2**20})
    assert with_peaks[3].endswith("| 1.33 | 1 | 0.250 |")


def test_a_cpu_measures_no_peak():
    assert measured_peaks(TINY, timed_contenders(), CPU) == {}
