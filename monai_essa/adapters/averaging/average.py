# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Average adapter files of one base, for sites that may share adapters and no scans.

What is claimed, and no more: the result is the adapter of the averaged effective weights of the encoder. For APLA, bias
tuning, norms, SSF and full tensors that is the average of the tensors, for the same columns and the same base; for LoRA
it is the average of the products (:mod:`~monai_essa.adapters.averaging.low_rank`). It is not claimed that this equals a
training on all scans together.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_essa.adapters.averaging.low_rank import LowRank, averaged_update, truncated
from monai_essa.adapters.file import AdapterFile, write_adapter
from monai_essa.outside import ListOf, Number

__all__ = ["AveragedAdapter", "average_adapters"]

_LINEAR = ("APLA", "BitFit", "ComponentTuning", "FullTuning", "HeadOnly", "LoRA", "NormTuning", "SSF")
# What must be the same in all files, and how a message calls it.
_SAME = {
    "fingerprint": "base",
    "facts": "settings of the layers",
    "positions": "grid of the position embeddings",
    "methods": "methods",
    "method_tensors": "tensors of the methods",
    "claims": "claimed tensors",
    "also_train": "also_train",
    "network": "network class",
    "preprocessing": "preprocessing",
    "base": "licence and origin of the base",
}
_LARGEST_NORM = 10.0  # of the median of the files: sites train alike, and a planted adapter pulls the average to itself
_DOWN, _UP = "lora_A", "lora_B"


@dataclass(frozen=True, eq=False)
class AveragedAdapter:
    """The average of adapter files.

    Attributes:
        tensors: by name in a file.
        record: as of the files, with the rank of LoRA that the average has.
        shares: of the files, with the sum 1.
        errors: of each LoRA update that was truncated, its relative error; empty where the average is exact.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]
    shares: tuple[float, ...]
    errors: dict[str, float]

    def save(self, path: str | Path) -> Path:
        """Write the average as an adapter file, which every reader of one takes."""
        return write_adapter(path, self.tensors, self.record)


def average_adapters(
    files: Sequence[AdapterFile], weights: Sequence[float] | None = None, rank: int | None = None
) -> AveragedAdapter:
    """Average adapter files by weights, in float64.

    Args:
        files: two or more of :func:`~monai_essa.adapters.file.read_adapter`, which refuses damaged files and values
            that are not finite.
        weights: of the files, above 0, for example the numbers of scans; default: all alike.
        rank: of the LoRA updates in the result; default: the exact one, K times that of the files, or that of the files
            where they have the same A.

    Raises:
        ValueError: if the files differ in base, methods, tensors, shapes or columns, the norm of one is more than ten
            times the median's, a method acts on the weights in another way than linearly, running statistics would be
            averaged, or a weight or the rank is out of range. The message names the file.
    """
    shares = _shares(len(files), weights)
    _check_alike(files)
    _check_norms(files)
    first = files[0]
    pairs = sorted(name for name in first.tensors if _side(name) == _DOWN)
    tensors = {name: _mean(name, files, shares) for name in first.tensors if _side(name) is None}
    updates = {name: averaged_update([_update(file, name) for file in files], shares) for name in pairs}
    errors: dict[str, float] = {}
    if updates:
        wanted = max(update.rank for update in updates.values()) if rank is None else _rank(rank, first, len(files))
        for name, update in updates.items():
            shorter = update
            if update.rank > wanted:
                shorter, errors[name.replace(f".{_DOWN}", "")] = truncated(update, wanted)
            shorter = _padded(shorter, wanted)
            tensors[name] = shorter.down.to(first.tensors[name].dtype).contiguous()
            tensors[_other(name)] = shorter.up.to(first.tensors[name].dtype).contiguous()
        record = _record(first, wanted)
    elif rank is not None:
        raise ValueError(f"rank is that of LoRA updates, and {first.path} has none: leave it out")
    else:
        record = dict(first.record)
    return AveragedAdapter(tensors, record, shares, errors)


def _shares(count: int, weights: Sequence[float] | None) -> tuple[float, ...]:
    if count < 2:
        raise ValueError(f"expected two adapter files or more to average, got {count}")
    given = [1.0] * count if weights is None else list(weights)
    if len(given) != count:
        raise ValueError(f"expected a weight for each of {count} files, got {len(given)}")
    ListOf(Number(0, 1e12)).check(given, "weights")
    if min(given) <= 0:
        raise ValueError(f"expected weights above 0, got {min(given)}: leave that file out")
    return tuple(weight / math.fsum(given) for weight in given)


def _check_alike(files: Sequence[AdapterFile]) -> None:
    first = files[0]
    foreign = [entry["name"] for entry in first.record["methods"] if entry["name"] not in _LINEAR]
    if foreign:
        raise ValueError(
            f"{first.path}: {foreign[0]} acts on features in another way than by weights, so that averaged "
            f"tensors are not the adapter of averaged weights; average files of {', '.join(_LINEAR)}"
        )
    for file in files[1:]:
        for key, name in _SAME.items():
            if file.record.get(key) != first.record.get(key):
                raise ValueError(f"{file.path} has another {name} than {first.path}: leave it out, or train it alike")
        for name in sorted(first.tensors.keys() | file.tensors.keys()):
            _check_tensor(name, first, file)


def _check_tensor(name: str, first: AdapterFile, file: AdapterFile) -> None:
    if name not in first.tensors or name not in file.tensors:
        holder, other = (first, file) if name in first.tensors else (file, first)
        raise ValueError(f"{other.path} lacks '{name}', which {holder.path} holds: leave it out")
    one, two = first.tensors[name], file.tensors[name]
    if one.shape != two.shape or one.dtype != two.dtype:
        raise ValueError(
            f"{file.path}: '{name}' is {tuple(two.shape)} of {two.dtype}, expected {tuple(one.shape)} of {one.dtype} "
            f"as in {first.path}"
        )
    if not one.is_floating_point() and not torch.equal(one, two):
        raise ValueError(
            f"{file.path}: '{name}' differs from that of {first.path}: these are other columns, or counts of steps; "
            "train all sites with the same seed and columns, and norms without running statistics"
        )
    if name.endswith(("running_mean", "running_var")) and not torch.equal(one, two):
        raise ValueError(
            f"{file.path}: '{name}' are running statistics, whose average is not that of all scans: keep those norms "
            "frozen"
        )


def _check_norms(files: Sequence[AdapterFile]) -> None:
    norms = [math.sqrt(sum(float(tensor.double().square().sum()) for tensor in _floats(file))) for file in files]
    middle = statistics.median_low(norms)
    for file, norm in zip(files, norms, strict=True):
        if not math.isfinite(norm) or norm > _LARGEST_NORM * middle or middle > _LARGEST_NORM * norm:
            raise ValueError(
                f"{file.path}: its tensors have the norm {norm:.3g}, the median of the files is {middle:.3g}: out of "
                f"range (a factor of {_LARGEST_NORM:g}); leave it out, or look at it by 'monai-essa adapter diff'"
            )


def _floats(file: AdapterFile) -> Iterator[Tensor]:
    return (tensor for tensor in file.tensors.values() if tensor.is_floating_point())


def _mean(name: str, files: Sequence[AdapterFile], shares: Sequence[float]) -> Tensor:
    first = files[0].tensors[name]
    if not first.is_floating_point():
        return first
    terms = [share * file.tensors[name].double() for share, file in zip(shares, files, strict=True)]
    return torch.stack(terms).sum(0).to(first.dtype)


def _side(name: str) -> str | None:
    return next((side for side in (_DOWN, _UP) if side in name.split(".")[-2:]), None)


def _other(down: str) -> str:
    return ".".join(_UP if part == _DOWN else part for part in down.split("."))


def _update(file: AdapterFile, down: str) -> LowRank:
    return LowRank(file.tensors[down].double(), file.tensors[_other(down)].double())


def _padded(update: LowRank, rank: int) -> LowRank:
    """Add columns of zeros to B, where the A of one layer are equal and those of another are not."""
    lacking = rank - update.rank
    down, up = update.down, update.up
    return LowRank(
        torch.cat([down, down.new_zeros(lacking, *down.shape[1:])]),
        torch.cat([up, up.new_zeros(len(up), lacking, *up.shape[2:])], dim=1),
    )


def _rank(rank: int, file: AdapterFile, count: int) -> int:
    most = count * max(len(tensor) for name, tensor in file.tensors.items() if _side(name) == _DOWN)
    if not 1 <= rank <= most:
        raise ValueError(f"expected a rank from 1 to {most}, which is exact, got {rank}")
    return rank


def _record(file: AdapterFile, rank: int) -> dict[str, Any]:
    """Return the record for another rank: alpha grows with it, so that alpha / rank stays."""
    record = copy.deepcopy(file.record)
    for entry in record["methods"]:
        if entry["name"] == "LoRA":
            values = entry["values"]
            values["alpha"], values["rank"] = values["alpha"] * rank / values["rank"], rank
    return record
