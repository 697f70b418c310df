# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a training step takes on this device, by the clock and by the card's own count of memory."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn

from monai_essa.efficiency.step_cost import Optimizer, fused_adamw

__all__ = ["MeasuredStep", "measured_step"]


@dataclass(frozen=True)
class MeasuredStep:
    """Medians over the steps.

    Attributes:
        forward_seconds: of the forward pass.
        backward_seconds: of the backward pass.
        optimizer_seconds: of the optimizer.
        images_per_second: of the whole step; loading images is not in it.
        peak_bytes: the most that CUDA gave out; None on another device.
    """

    forward_seconds: float
    backward_seconds: float
    optimizer_seconds: float
    images_per_second: float
    peak_bytes: int | None


def measured_step(
    objective: nn.Module,
    *inputs: Any,
    optimizer: Optimizer = fused_adamw,
    autocast: torch.dtype | None = None,
    steps: int = 5,
) -> MeasuredStep:
    """Take training steps with a copy of an objective, on the device that it is on.

    Args:
        objective: as for :func:`~monai_essa.efficiency.step_cost`; left as it is.
        inputs: what it is called with, on its device.
        optimizer: makes the optimizer of the parameters that learn.
        autocast: number format of the forward pass; None computes in that of the weights.
        steps: that are timed, after one that is not.

    Raises:
        ValueError: if there is no step to time.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> from monai_essa.methods import APLA
        >>> from monai_essa.pretext import SimMIM
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), APLA())
        >>> measured_step(SimMIM(encoder=net), torch.rand(2, 1, 32, 32, 32), steps=1).images_per_second > 0
        True
    """
    if steps < 1:
        raise ValueError(f"expected one step or more to time, got {steps}")
    worker = copy.deepcopy(objective).train()
    device = next(worker.parameters()).device
    owner = optimizer([parameter for parameter in worker.parameters() if parameter.requires_grad])
    clock = _Clock(device)

    def step() -> tuple[float, float, float]:
        begin = clock()
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            loss = worker(*inputs)["loss"]
        forward = clock()
        loss.backward()
        backward = clock()
        owner.step()
        owner.zero_grad(set_to_none=True)
        return forward - begin, backward - forward, clock() - backward

    step()  # the optimizer's state and the pools of memory appear
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = [step() for _ in range(steps)]
    forward, backward, update = (statistics.median(part) for part in zip(*times, strict=True))
    images = len(next(value for value in inputs if isinstance(value, torch.Tensor)))
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return MeasuredStep(forward, backward, update, images / statistics.median(map(sum, times)), peak)


class _Clock:
    """Seconds at which everything before was done: a card works on while Python goes ahead."""

    def __init__(self, device: torch.device) -> None:
        self._wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def __call__(self) -> float:
        self._wait()
        return time.perf_counter()
