# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Put a network back: after an error in the middle of a change, or after a trial that allocates nothing.

What is kept is everything but the values of tensors: modules, attributes, hooks, modes, what learns, and the storage
that each tensor has. Values are never written into a storage before a change is known to succeed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn

__all__ = ["on_trial", "unchanged_on_error"]


@contextmanager
def unchanged_on_error(network: nn.Module) -> Iterator[None]:
    """Within the block a network may be changed; if an error leaves the block, the network is as it was.

    Args:
        network: any module. The very same module objects come back, each with its attributes and hooks.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> try:
        ...     with unchanged_on_error(net):
        ...         net[0] = nn.Identity()
        ...         raise ValueError("late")
        ... except ValueError:
        ...     print(net[0])
        Linear(in_features=2, out_features=2, bias=True)
    """
    snapshot = _Snapshot(network)
    try:
        yield
    except BaseException:
        snapshot.restore()
        raise


@contextmanager
def on_trial(network: nn.Module) -> Iterator[None]:
    """Within the block the parameters have shapes but no storage, so that a change can be tried; then all is undone.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> with on_trial(net):
        ...     net.weight.new_empty(10**12, 2).shape
        torch.Size([1000000000000, 2])
        >>> net.weight.device
        device(type='cpu')
    """
    snapshot = _Snapshot(network)
    shapes: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    try:
        for module in snapshot.modules:
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    shape = torch.empty_like(parameter, device="meta", requires_grad=False)
                    module._parameters[name] = shapes.setdefault(
                        id(parameter), nn.Parameter(shape, parameter.requires_grad)
                    )
        yield
    finally:
        snapshot.restore()


class _Snapshot:
    def __init__(self, network: nn.Module) -> None:
        self.modules = list(network.modules())
        self._attributes = [dict(vars(module)) for module in self.modules]
        self._contents = [
            (value, dict(value)) for kept in self._attributes for value in kept.values() if isinstance(value, dict)
        ]
        self._parameters = [(p, p.requires_grad, dict(vars(p))) for p in network.parameters()]
        self._storages = [(tensor, tensor.data) for tensor in (*network.parameters(), *network.buffers())]

    def restore(self) -> None:
        for module, kept in zip(self.modules, self._attributes, strict=True):
            vars(module).clear()
            vars(module).update(kept)
        for dictionary, content in self._contents:  # filled again, not replaced: handles of hooks point to it
            dictionary.clear()
            dictionary.update(content)
        for parameter, learns, marks in self._parameters:
            parameter.requires_grad_(learns)
            vars(parameter).clear()
            vars(parameter).update(marks)
        for tensor, data in self._storages:
            if tensor.data_ptr() != data.data_ptr():
                tensor.data = data
