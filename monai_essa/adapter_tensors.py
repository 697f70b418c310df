# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tensors of adapter files: checksums, and values that no training leaves behind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

__all__ = ["check_values", "sha256_of", "sha256_of_all"]


def sha256_of(tensor: torch.Tensor) -> str:
    """Return the sha256 of number format, shape and bytes.

    Example:
        >>> sha256_of(torch.zeros(2)) == sha256_of(torch.zeros(2, 1))
        False
    """
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sha256_of_all(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of names, number formats, shapes and bytes of tensors, in the order of their names."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(f"{name}\n{sha256_of(tensors[name])}\n".encode())
    return whole.hexdigest()


def check_values(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Check that values are finite, variances and indices not below zero, and no index stands twice.

    A tensor of integers with one axis holds indices, as APLA's ``columns`` do.

    Args:
        tensors: by name.
        where: the file, for messages.

    Raises:
        ValueError: if a tensor has another value; its name is said.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{where}: '{name}' holds NaN or infinity; the training that made it diverged")
        unsigned = not tensor.is_floating_point() or name.endswith("running_var")
        if unsigned and tensor.numel() and tensor.min() < 0:
            raise ValueError(f"{where}: '{name}' holds {tensor.min().item()}, expected nothing below 0")
        if not tensor.is_floating_point() and tensor.dim() == 1 and len(tensor.unique()) != len(tensor):
            raise ValueError(f"{where}: '{name}' holds an index twice, expected each once")
