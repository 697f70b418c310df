# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The GPU is asked for in one place, and a machine without one answers as a CPU does."""

from __future__ import annotations

import pytest
import torch

from monai_essa import devices

CPU = torch.device("cpu")


def test_nothing_is_measured_on_a_cpu() -> None:
    devices.reset_peak(CPU)
    assert devices.peak_bytes(CPU) is None
    assert not devices.is_gpu(CPU) and devices.gpus_among([CPU]) == []


def test_a_gpu_is_known_by_its_type_wherever_it_is() -> None:
    second = torch.device("cuda", 1)
    assert devices.is_gpu(second) and devices.gpus_among([CPU, second]) == [second]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_everything_is_on_the_cpu() -> None:
    assert devices.default_device() == devices.own_gpu(3) == CPU
    assert devices.gpu_memory() is None and devices.peak_bytes() is None
    devices.wait_for_gpu()


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert devices.own_gpu(1) == torch.device("cuda", 1) and chosen == [1]
    with pytest.raises(RuntimeError, match="process 2 of this machine has no GPU, 2 are visible.*--nproc_per_node=2"):
        devices.own_gpu(2)
