# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What an adapter costs after training: its file, merging, swapping, and inference of the merged network."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn

from benchmarks.tables import markdown_table
from benchmarks.times import Seconds, interleaved_seconds, seconds_of
from monai_essa.adapters.adaptation import adapt, merge
from monai_essa.adapters.file import load_adapter, save_adapter
from monai_essa.methods import APLA, LoRA
from monai_essa.methods.method import AdaptationMethod

__all__ = ["AdapterTimes", "adapter_table", "adapter_times", "compared_networks"]

_METHODS: dict[str, AdaptationMethod] = {
    "APLA": APLA(),
    "APLA 25 %": APLA(columns=0.25),
    "LoRA": LoRA(targets=("q", "k", "v")),
}


@dataclass(frozen=True)
class AdapterTimes:
    """The costs of an adapter.

    Attributes:
        file_bytes: size of its file.
        swap: seconds to read another file of the same method into an adapted network.
        merging: seconds to make the plain network.
        base: seconds of an image through the base network.
        merged: seconds of an image through the merged network, in turns with the base.
        copied: seconds of an image through a copy of the base, in the same turns: what differs is noise.
    """

    file_bytes: int
    swap: Seconds
    merging: Seconds
    base: Seconds
    merged: Seconds
    copied: Seconds


def adapter_times(
    make: Callable[[], nn.Module], method: AdaptationMethod, rounds: int, device: torch.device
) -> AdapterTimes:
    """Time an adapter on a network for images of 96 x 96 x 96.

    Args:
        make: makes the base network.
        method: adapts it.
        rounds: how often each thing is timed; inference twice as often.
        device: where the network runs.
    """
    base = make().to(device).eval()
    adapted = adapt(copy.deepcopy(base), method).eval()
    image = torch.rand(1, 1, 96, 96, 96, device=device)
    with tempfile.TemporaryDirectory() as folder:
        file = save_adapter(adapted, Path(folder) / "adapter.safetensors")
        size = file.stat().st_size
        swap = interleaved_seconds({"swap": lambda: load_adapter(adapted, file)}, rounds)["swap"]
    merging = Seconds(tuple(seconds_of(partial(merge, adapted)) for _ in range(rounds)))
    with torch.inference_mode():
        ways = {name: partial(network, image) for name, network in compared_networks(base, adapted).items()}
        passes = interleaved_seconds(ways, 2 * rounds)
    return AdapterTimes(size, swap, merging, **passes)


def compared_networks(base: nn.Module, adapted: nn.Module) -> dict[str, nn.Module]:
    """Return the networks whose inference is compared: the base, the merged network, and a copy of the base.

    Args:
        base: the network before it was adapted.
        adapted: the network after.
    """
    return {"base": base, "merged": merge(adapted), "copied": copy.deepcopy(base)}


def adapter_table(networks: dict[str, Callable[[], nn.Module]], rounds: int, device: torch.device) -> list[str]:
    """Write what adapters cost on each network.

    Args:
        networks: makers of base networks, by name.
        rounds: how often each thing is timed.
        device: where the networks run.
    """
    columns = ("network", "method", "file, MB", "merge, ms", "swap, ms", "base, s", "merged, s", "ratio", "noise")
    rows = []
    for network, make in networks.items():
        for name, method in _METHODS.items():
            times = adapter_times(make, method, rounds, device)
            rows.append(
                (
                    network,
                    name,
                    f"{times.file_bytes / 1e6:.2f}",
                    f"{1000 * times.merging.median:.1f}",
                    f"{1000 * times.swap.median:.1f}",
                    f"{times.base.median:.4f}",
                    f"{times.merged.median:.4f}",
                    f"{times.merged.ratio_to(times.base):.3f}",
                    f"{times.copied.ratio_to(times.base):.3f}",
                )
            )
    return [*markdown_table(columns, rows), ""]
