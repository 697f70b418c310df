# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Whether the values of a tensor from a file can be those of a network."""

from __future__ import annotations

import torch

__all__ = ["unlike", "unreadable"]

# Constants of an architecture that MONAI keeps as buffers: the pairs of positions within a window.
_CONSTANTS = ("relative_position_index",)


def unreadable(tensor: torch.Tensor) -> str | None:
    """Say why a tensor holds no plain values, or None where it does.

    Example:
        >>> unreadable(torch.ones(2, device="meta"))
        'a meta tensor, which holds no values'
    """
    if tensor.is_meta:
        return "a meta tensor, which holds no values"
    if tensor.is_quantized:
        return "a quantised tensor"
    if tensor.layout != torch.strided:
        return "a sparse tensor"
    if tensor.is_complex():
        return "complex values"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"declares {tensor.numel():,} values and stores fewer"
    return None


def unlike(name: str, tensor: torch.Tensor, own: torch.Tensor) -> str | None:
    """Say why the values of a fitted tensor are of another kind than the network's, or None where they are not.

    Floating-point numbers of any precision are of one kind. Whole numbers in place of them are not: a quantised weight
    means nothing without its scale.

    Args:
        name: of the tensor.
        tensor: from the file, in the shape of the network's.
        own: the network's tensor.

    Example:
        >>> unlike("norm.weight", torch.ones(2, dtype=torch.int8), torch.ones(2))
        'int8 values in the file, float32 in the network'
    """
    said = f"{_name(tensor)} values in the file, {_name(own)} in the network"
    if own.is_floating_point():
        return None if tensor.is_floating_point() else said
    if tensor.is_floating_point() and not torch.equal(tensor.double(), tensor.double().round()):
        return said
    if name.endswith(_CONSTANTS) and not torch.equal(tensor.double(), own.cpu().double()):
        return "other values than the network's, whose windows are made otherwise"
    return None


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
