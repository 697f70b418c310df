# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Compare two adapter files: methods, base, and each tensor."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from monai_essa.adapters.file import AdapterFile
from monai_essa.adapters.record import methods_text

__all__ = ["AdapterDifference", "TensorDifference", "compare_adapters"]


@dataclass(frozen=True)
class TensorDifference:
    """One tensor that both files hold.

    Attributes:
        name: in both files.
        shape: in the first file.
        relative: |B - A| / |A| in the Frobenius norm, 0 for equal tensors; for indices the share that differs; None if
            the shapes differ.
    """

    name: str
    shape: tuple[int, ...]
    relative: float | None


@dataclass(frozen=True)
class AdapterDifference:
    """What two adapter files have in common and where they differ.

    Attributes:
        methods: comparison of the methods, in one line.
        base: comparison of the bases, in one line.
        tensors: the tensors that are in both files.
        only_first: names that are only in the first file.
        only_second: names that are only in the second file.
        total: |B - A| / |A| over all values of ``tensors`` of equal shape, without indices.
    """

    methods: str
    base: str
    tensors: tuple[TensorDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    total: float


def compare_adapters(first: AdapterFile, second: AdapterFile) -> AdapterDifference:
    """Compare two adapter files.

    Args:
        first: A, the reference of the relative differences.
        second: B.

    Returns:
        The differences.
    """
    both = sorted(first.tensors.keys() & second.tensors.keys(), key=_in_order)
    pairs = {name: (first.tensors[name], second.tensors[name]) for name in both}
    counted = [(a, b) for a, b in pairs.values() if a.is_floating_point() and a.shape == b.shape]
    return AdapterDifference(
        methods=_methods(first, second),
        base=_base(first.record["fingerprint"], second.record["fingerprint"]),
        tensors=tuple(TensorDifference(name, tuple(a.shape), _relative(a, b)) for name, (a, b) in pairs.items()),
        only_first=tuple(sorted(first.tensors.keys() - second.tensors.keys())),
        only_second=tuple(sorted(second.tensors.keys() - first.tensors.keys())),
        total=_ratio(sum(_squares(b.double() - a.double()) for a, b in counted), sum(_squares(a) for a, _ in counted)),
    )


def _in_order(name: str) -> list[str | int]:
    """Sort block 2 before block 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _methods(first: AdapterFile, second: AdapterFile) -> str:
    if first.record["methods"] == second.record["methods"]:
        return f"the same: {methods_text(first.record)}"
    return f"{methods_text(first.record)} against {methods_text(second.record)}"


def _base(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    both = sorted(first.keys() & second.keys())
    if not both:
        return "not comparable: no tensor is frozen in both"
    differ = [name for name in both if first[name] != second[name]]
    if differ:
        return f"not the same: {len(differ)} of {len(both)} tensors frozen in both differ, first '{differ[0]}'"
    return f"the same in the {len(both)} tensors frozen in both"


def _relative(a: torch.Tensor, b: torch.Tensor) -> float | None:
    if a.shape != b.shape:
        return None
    if not a.is_floating_point():
        return float((a != b).double().mean()) if a.numel() else 0.0
    return _ratio(_squares(b.double() - a.double()), _squares(a))


def _squares(tensor: torch.Tensor) -> float:
    return float(tensor.double().square().sum())


def _ratio(difference: float, reference: float) -> float:
    if difference == 0:
        return 0.0
    return math.sqrt(difference / reference) if reference else math.inf
