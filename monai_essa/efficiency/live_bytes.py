# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""How many bytes of tensors are alive, and how many were at the worst moment."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monai_essa.efficiency.convolution_scratch import convolution_scratch

__all__ = ["LiveBytes"]


class LiveBytes(TorchDispatchMode):
    """Follow the storage of every tensor from its birth to its end: a deterministic memory meter.

    Views count once, and a storage counts until the last tensor or autograd node lets go of it. Of what a kernel takes
    and gives back within one operation, the copies of CPU convolutions are counted (they are as large as the images);
    the rest is small. On fake tensors no arithmetic is done and nothing is allocated, so any
    size is measured in seconds; the numbers are the same.

    Args:
        present: tensors that exist already, such as weights and the batch.

    Attributes:
        now: bytes alive.
        peak: the most bytes that were alive at once since the start or since :meth:`restart_peak`.

    Example:
        >>> with LiveBytes() as meter:
        ...     values = torch.zeros(1000)
        ...     total = (values * 2).sum()
        >>> meter.now, meter.peak
        (4004, 8004)
    """

    def __init__(self, present: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for tensor in present:
            self._count(tensor)

    def restart_peak(self) -> None:
        """Measure the peak from this moment on."""
        self.peak = self.now

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the storages that it made."""
        result = func(*args, **(kwargs or {}))
        self._count_all(result)
        self.peak = max(self.peak, self.now + convolution_scratch(func, args, result))
        return result

    def _count_all(self, result: Any) -> None:
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        weakref.finalize(storage, self._drop, storage.nbytes())
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _drop(self, size: int) -> None:
        self.now -= size
