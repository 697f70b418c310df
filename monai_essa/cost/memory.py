# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The peak of live tensor bytes in a step, with the scratch memory of convolutions on a CPU.

The scratch memory belongs to the peak that ``monai-essa plan`` and ``monai-essa cost`` state: with SwinUNETR and
SegResNet it is 2 to 5 % of it on a CPU, more than what is left unmodelled.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveBytes", "convolution_scratch"]

_ATEN = torch.ops.aten
_BLOCK = 16


class LiveBytes(TorchDispatchMode):
    """Follow the storage of every tensor from its birth to its end: a deterministic memory meter.

    Views count once, and a storage counts until the last tensor or autograd node lets go of it. Of what a kernel
    allocates and frees within one operation, the copies of CPU convolutions are counted (they are as large as the
    images); the rest is small. On fake tensors no arithmetic is done and nothing is allocated, so any size is measured
    in seconds; the numbers are the same.

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


def convolution_scratch(operation: Callable[..., Any], args: tuple[Any, ...], result: Any) -> int:
    """Count the bytes that a convolution on the CPU needs at its worst moment beside its inputs and results.

    Args:
        operation: an operation that just ran; any other than a convolution needs nothing.
        args: its arguments.
        result: its output.

    Example:
        >>> images, kernel = torch.zeros(1, 16, 8, 8, 8), torch.zeros(16, 16, 1, 1, 1)
        >>> args = (images, kernel, None, [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1)
        >>> convolution_scratch(_ATEN.convolution.default, args, _ATEN.convolution(*args))
        33792
        >>> images.nbytes + kernel.nbytes
        33792
    """
    if operation is _ATEN.convolution.default and result.is_cpu:
        return _forward(args[0], result, transposed=args[6]) + args[1].nbytes
    if operation is _ATEN.convolution_backward.default and args[0].is_cpu:
        return _backward(args[0], args[1], args[2], needs_weight=args[10][1])
    return 0


def _forward(x: torch.Tensor, y: torch.Tensor, transposed: bool) -> int:
    if transposed:
        return _blocked(y) + max(0, _blocked(x) - y.nbytes)
    return max(_blocked(x) + _blocked(y) - y.nbytes, _blocked(y))


def _backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, needs_weight: bool) -> int:
    # Both gradients read the output's; that of the weight reads the images, that of the images writes them.
    both = _blocked(x) + _blocked(grad)
    return both if needs_weight else max(both - x.nbytes, _blocked(x)) + weight.nbytes


def _blocked(images: torch.Tensor) -> int:
    """Bytes of (B, C, spatial...) in blocks of 16 channels; a single channel is left as it is."""
    channels = images.shape[1]
    padded = channels if channels == 1 else -(-channels // _BLOCK) * _BLOCK
    return images.nbytes // channels * padded
