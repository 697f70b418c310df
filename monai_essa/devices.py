# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The GPU, and the only place that asks for it by name: which one is used, its memory, its generator, its clock."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

__all__ = [
    "check_process_count",
    "default_device",
    "gpu_memory",
    "gpus_among",
    "is_gpu",
    "own_gpu",
    "peak_bytes",
    "reset_peak",
    "wait_for_gpu",
]

_GPU = "cuda"


def default_device() -> torch.device:
    """Return the device that work takes unless it is told another: the GPU where there is one, else the CPU.

    Example:
        >>> default_device().type in ("cpu", "cuda")
        True
    """
    return torch.device(_GPU if torch.cuda.is_available() else "cpu")


def own_gpu(number: int) -> torch.device:
    """Return the GPU of a process among those of its machine, and make it that process's own; the CPU without a GPU.

    Args:
        number: of the process on its machine, from 0 on.

    Raises:
        RuntimeError: if there are fewer GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if number >= count:
        raise RuntimeError(
            f"process {number} of this machine has no GPU, {count} are visible: give torchrun --nproc_per_node={count}"
        )
    torch.cuda.set_device(number)
    return torch.device(_GPU, number)


def check_process_count(count: int) -> None:
    """Refuse more processes than this machine has GPUs or, where it has none, cores.

    Args:
        count: of processes.

    Raises:
        ValueError: if there are too many.

    Example:
        >>> check_process_count(1)
    """
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    most, what = (gpus, "GPUs") if gpus else (cores, "cores and no GPU")
    if not 1 <= count <= most:
        raise ValueError(f"expected 1 to {most} processes on this machine, which has {most} {what}, got {count}")


def is_gpu(device: torch.device) -> bool:
    """Tell whether a device is a GPU: gradients are scaled for fp16 there, and memory is measured.

    Example:
        >>> is_gpu(torch.device("cpu"))
        False
    """
    return device.type == _GPU


def gpus_among(devices: Iterable[torch.device]) -> list[torch.device]:
    """Return those whose generators ``torch.random.fork_rng`` has to keep beside that of the CPU.

    Example:
        >>> gpus_among([torch.device("cpu")])
        []
    """
    return [device for device in devices if is_gpu(device)]


def gpu_memory() -> tuple[str, int] | None:
    """Return the name of the GPU and the bytes of its memory, None where there is none."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]


def reset_peak(device: torch.device) -> None:
    """Count the peak of a GPU's memory anew; of another device nothing is counted."""
    if is_gpu(device):
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device | None = None) -> int | None:
    """Return the most bytes that a GPU has given out; None for another device.

    Args:
        device: the device; default: the current GPU, if one has been used.
    """
    if device is None:
        return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
    return torch.cuda.max_memory_allocated(device) if is_gpu(device) else None


def wait_for_gpu() -> None:
    """Wait until the GPU has done what Python has asked of it, before a clock is read."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
