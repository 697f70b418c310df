# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the costs of an adapter. What a clock says is not tested."""

from __future__ import annotations

import copy

import torch

from benchmarks.adapter_times import adapter_table, adapter_times, compared_networks
from benchmarks.scale import quick_scale
from monai_essa import adapt
from monai_essa.methods import APLA, LoRA

NETWORKS = quick_scale().networks
CPU = torch.device("cpu")


def test_the_file_holds_what_learns():
    times = adapter_times(NETWORKS["ViT-tiny/16"], APLA(), 1, CPU)
    learned = 4 * 2 * (48 * 48 + 48)
    assert learned < times.file_bytes < learned + 8000
    assert (len(times.swap.rounds), len(times.merging.rounds), len(times.base.rounds)) == (1, 1, 2)


def test_every_method_has_a_row_on_every_network():
    rows = [line.strip("| ").split(" | ") for line in adapter_table(NETWORKS, 1, CPU)[2:-1]]
    assert [row[:2] for row in rows] == [["ViT-tiny/16", name] for name in ("APLA", "APLA 25 %", "LoRA")]
    assert all(len(row) == 9 for row in rows)


def test_the_networks_compared_are_plain_and_alike():
    base = NETWORKS["ViT-tiny/16"]()
    networks = compared_networks(base, adapt(copy.deepcopy(base), LoRA()))
    assert list(networks) == ["base", "merged", "copied"]
    kinds = [[type(module) for module in network.modules()] for network in networks.values()]
    assert kinds[0] == kinds[1] == kinds[2]
