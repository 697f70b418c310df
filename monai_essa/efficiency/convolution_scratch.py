# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a convolution takes and gives back while it runs on a CPU: copies in oneDNN's own layout.

oneDNN computes convolutions on images laid out in blocks of 16 channels. Inputs are copied into that layout, the result
is computed in it and copied out. The copies are gone when the operation ends, so that nobody outside sees them, but the
allocator does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["convolution_scratch"]

_ATEN = torch.ops.aten
_BLOCK = 16


def convolution_scratch(operation: Callable[..., Any], args: tuple[Any, ...], result: Any) -> int:
    """Count the bytes that a convolution on the CPU needs at its worst moment beside its inputs and results.

    Args:
        operation: an operation that just ran; any other than a convolution needs nothing.
        args: its arguments.
        result: what it gave.

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
