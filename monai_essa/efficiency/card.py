# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a plan knows of the computer: the memory that a training step may take, and what caches may."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Card", "bytes_of", "this_card"]

_UNITS = {"GB": 1e9, "G": 1e9, "GIB": 2.0**30, "MB": 1e6, "M": 1e6, "MIB": 2.0**20}
_OWN = 0.6e9  # bytes that CUDA's context, or Python and its libraries, take beside the tensors
_FREE_SHARE = 0.9  # of the memory; the rest is lost between the allocator's blocks


@dataclass(frozen=True)
class Card:
    """Where a run would train.

    Attributes:
        memory: bytes of the card, or of the computer without one.
        source: what told it.
        device: ``cuda`` or ``cpu``.
        ram: bytes of the computer.
        disk: bytes that are free for a cache on disk.
    """

    memory: int
    source: str
    device: str
    ram: int
    disk: int

    @property
    def budget(self) -> int:
        """Bytes that the tensors of a training step may take: without CUDA's or Python's own, and with a margin."""
        return max(0, int(self.memory * _FREE_SHARE - _OWN))


def bytes_of(text: str) -> int:
    """Read an amount of memory.

    Args:
        text: a number with GB, GiB, MB or MiB.

    Returns:
        Bytes.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> bytes_of("12GB"), bytes_of("1.5 GiB")
        (12000000000, 1610612736)
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    factor = _UNITS.get(parts[2].upper()) if parts else None
    if parts is None or factor is None or not float(parts[1]):
        raise ValueError(f"--memory {text}: expected an amount such as 12GB, 24GiB or 800MB")
    return int(float(parts[1]) * factor)


def this_card(folder: Path, memory: int | None = None) -> Card:
    """Look at this computer.

    Args:
        folder: where a cache would be written.
        memory: bytes to plan for instead of those of the card.

    Returns:
        The card; half of the computer's memory where there is none, since scans and the system take the other half.

    Raises:
        ValueError: if the system does not tell its memory and ``memory`` is not given.
    """
    ram = _ram()
    disk = shutil.disk_usage(next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if memory is not None:
        return Card(memory, "--memory", device, ram or memory, disk.free)
    if device == "cuda":
        name, total = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
        return Card(total, name, device, ram or total, disk.free)
    if ram is None:
        raise ValueError("this computer does not tell its memory; give --memory, such as --memory 16GB")
    return Card(ram // 2, "half of this computer's memory, no CUDA card", device, ram, disk.free)


def _ram() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
