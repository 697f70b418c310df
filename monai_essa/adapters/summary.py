# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Count the parameters that learn, and the bytes of the adapter file."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn as nn

from monai_essa.adapters.adapted import adaptation_of
from monai_essa.anatomy.parts import part_of, unwrapped

__all__ = ["Summary", "summary"]


@dataclass(frozen=True)
class Summary:
    """Trainable and total parameters of each part of a network, and the size of its adapter file in bytes.

    ``print(summary(network))`` prints one line in the form of peft's ``print_trainable_parameters``; :meth:`table`
    lists encoder, decoder and head separately.

    Example:
        >>> print(Summary({"encoder": (294_912, 88_443_648)}, adapter_bytes=1_179_648))
        trainable params: 294,912 || all params: 88,443,648 || trainable%: 0.3334
    """

    parts: dict[str, tuple[int, int]]
    adapter_bytes: int

    @property
    def trainable(self) -> int:
        """Count the parameters that learn."""
        return sum(trainable for trainable, _ in self.parts.values())

    @property
    def total(self) -> int:
        """Count all parameters, including those that a method added."""
        return sum(total for _, total in self.parts.values())

    def __str__(self) -> str:
        share = 100 * self.trainable / self.total
        return f"trainable params: {self.trainable:,} || all params: {self.total:,} || trainable%: {share:.4f}"

    def table(self) -> str:
        """Return a table with a line for each part, and the size of the adapter file.

        Example:
            >>> print(Summary({"encoder": (784, 62_400), "head": (0, 98)}, adapter_bytes=3_264).table())
            part        trainable        total    share
            encoder           784       62,400    1.26%
            head                0           98    0.00%
            network           784       62,498    1.25%
            adapter file: 0.00 MB
        """
        rows = [*self.parts.items(), ("network", (self.trainable, self.total))]
        lines = [f"{'part':<8} {'trainable':>12} {'total':>12} {'share':>8}"]
        lines += [f"{name:<8} {n:>12,} {of:>12,} {n / of:>8.2%}" for name, (n, of) in rows if of]
        return "\n".join([*lines, f"adapter file: {self.adapter_bytes / 1e6:.2f} MB"])


def summary(network: nn.Module) -> Summary:
    """Count trainable and total parameters of encoder, decoder and head, and the bytes of the adapter file.

    Args:
        network: an adapted network; one that ``torch.compile`` or a parallel wrapper holds is seen through.

    Raises:
        ValueError: if the network is not adapted.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import APLA, adapt
        >>> net = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> print(summary(adapt(net, APLA(columns=8))))
        trainable params: 784 || all params: 235,744 || trainable%: 0.3326
    """
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
