# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Count what learns and what an adapter file will hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn as nn

from monai_essa.adapters.adaptation import adaptation_of
from monai_essa.anatomy.parts import part_of, unwrapped

__all__ = ["Summary", "summary"]


@dataclass(frozen=True)
class Summary:
    """Trainable and total parameters of each part of a network, and the size of its adapter file in bytes."""

    parts: dict[str, tuple[int, int]]
    adapter_bytes: int

    @property
    def trainable(self) -> int:
        """Count the parameters that learn."""
        return sum(trainable for trainable, _ in self.parts.values())

    @property
    def total(self) -> int:
        """Count all parameters, those that a method added included."""
        return sum(total for _, total in self.parts.values())

    def __str__(self) -> str:
        rows = [*self.parts.items(), ("network", (self.trainable, self.total))]
        lines = [f"{'part':<8} {'trainable':>12} {'total':>12} {'share':>8}"]
        lines += [f"{name:<8} {n:>12,} {of:>12,} {n / of:>8.2%}" for name, (n, of) in rows if of]
        return "\n".join([*lines, f"adapter file: {self.adapter_bytes / 1e6:.2f} MB"])


def summary(network: nn.Module) -> Summary:
    """Count trainable and total parameters of encoder, decoder and head, and what an adapter file will hold."""
    record, network = adaptation_of(network), unwrapped(network)
    counts = {"encoder": (0, 0), "decoder": (0, 0), "head": (0, 0)}
    for name, parameter in network.named_parameters():
        trainable, total = counts[part_of(network, name)]
        counts[part_of(network, name)] = (
            trainable + parameter.numel() * parameter.requires_grad,
            total + parameter.numel(),
        )
    tensors = network.state_dict()
    return Summary(counts, sum(tensors[name].nbytes for name in record.changing))
