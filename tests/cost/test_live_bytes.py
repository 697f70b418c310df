# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The memory meter counts storages, from birth to end, on real and fake tensors alike."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from monai_essa.cost.meter import LiveBytes


def test_views_and_shared_storages_count_once():
    with LiveBytes() as meter:
        values = torch.zeros(256)
        views = [values.view(16, 16), values[3:], values.detach()]
    assert (meter.now, meter.peak, len(views)) == (1024, 1024, 3)


def test_what_autograd_keeps_counts_until_it_lets_go():
    weight = torch.ones(256, requires_grad=True)
    with LiveBytes([weight]) as meter:
        loss = weight.exp().sum()
        assert meter.now == 2 * 1024 + 4
        loss.backward()
        del loss
        assert meter.now == 2 * 1024  # the gradient in place of what was kept


def test_the_peak_can_start_anew():
    with LiveBytes() as meter:
        torch.zeros(1024)
        assert (meter.now, meter.peak) == (0, 4096)
        meter.restart_peak()
        torch.zeros(256)
    assert meter.peak == 1024


def test_fake_tensors_count_as_real_ones():
    def work() -> torch.Tensor:
        return torch.softmax(torch.ones(64, 64) @ torch.ones(64, 64), -1).sum()

    with LiveBytes() as real:
        work()
    with FakeTensorMode(), LiveBytes() as fake:
        work()
    assert (real.now, real.peak) == (fake.now, fake.peak)
