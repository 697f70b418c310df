# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What travels between the sites and the server: the adapter and perhaps the pretext head, as named arrays.

Nothing else of a network leaves a site, and no image, name or path. What comes in is checked against the start of the
job, which both sides have: names, shapes, finite values, and how far it is from where the round began.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from monai_essa.adapters.averaging.average import average_adapters
from monai_essa.adapters.file import AdapterFile, read_adapter, write_adapter
from monai_essa.files import sha256, written_whole
from monai_essa.outside import Number, shown

__all__ = [
    "ADAPTER",
    "HEAD",
    "SiteAverage",
    "Start",
    "averaged",
    "check_update",
    "check_weight",
    "limited_update",
    "read_result",
    "read_start",
    "sent_list",
    "write_start",
]

Values = Mapping[str, np.ndarray]
ADAPTER, HEAD = "adapter.safetensors", "pretext_head.safetensors"
_ADAPTER, _HEAD = "adapter/", "head/"
_LARGEST_UPDATE = 10.0  # of the median of the sites' updates
_WEIGHT = Number(0, 1e15)


@dataclass(frozen=True, eq=False)
class Start:
    """Where a round begins, or what it ends with.

    Attributes:
        adapter: the adapter file. What is the same everywhere stays: whole numbers, such as the columns of APLA, and
            the A of a LoRA that keeps it.
        head: tensors of the pretext head by name; empty where none travels.
    """

    adapter: AdapterFile
    head: Mapping[str, Tensor]

    def values(self) -> dict[str, np.ndarray]:
        """Return what travels."""
        tensors = {_ADAPTER + name: tensor for name, tensor in self.adapter.tensors.items()}
        tensors |= {_HEAD + name: tensor for name, tensor in self.head.items()}
        methods = self.adapter.record["methods"]
        frozen = any(entry["name"] == "LoRA" and entry["values"].get("freeze_a") for entry in methods)
        moving = {name: own for name, own in tensors.items() if own.is_floating_point()}
        return {name: own.float().numpy() for name, own in moving.items() if not (frozen and ".lora_A" in name)}

    def with_values(self, values: Values) -> Start:
        """Return the same with the values that came."""
        adapter = {name: _taken(values, _ADAPTER + name, own) for name, own in self.adapter.tensors.items()}
        head = {name: _taken(values, _HEAD + name, own) for name, own in self.head.items()}
        return Start(AdapterFile(self.adapter.path, adapter, self.adapter.record), head)


@dataclass(frozen=True, eq=False)
class SiteAverage:
    """The average of a round.

    Attributes:
        values: that all sites go on from.
        shares: of the sites, with the sum 1.
        left_out: why a site has none, by its name.
        errors: of LoRA updates that were cut back to their rank, relative; empty where the average is exact.
    """

    values: dict[str, np.ndarray]
    shares: dict[str, float]
    left_out: dict[str, str]
    errors: dict[str, float]


def read_start(folder: Path) -> Start:
    """Read the adapter and, if there is one, the pretext head of a folder.

    Raises:
        FileNotFoundError: if there is no adapter.
        ValueError: if a file is damaged.
    """
    return Start(read_adapter(folder / ADAPTER), load_file(folder / HEAD) if (folder / HEAD).is_file() else {})


def write_start(start: Start, folder: Path) -> None:
    """Write the files that :func:`read_start` reads, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_adapter(folder / ADAPTER, start.adapter.tensors, start.adapter.record)
    if start.head:
        with written_whole(folder / HEAD) as temporary:
            temporary.write_bytes(save(dict(start.head)))


def read_result(run: Path, start: Start) -> dict[str, np.ndarray]:
    """Read what a finished run sends back.

    Args:
        run: its folder, with the files of a stage.
        start: where it began; without a head there none is sent.
    """
    result = read_start(run)
    return Start(result.adapter, result.head if start.head else {}).values()


def check_update(values: Any, reference: Values) -> None:
    """Refuse what is not the tensors of the reference with other values.

    Args:
        values: from outside.
        reference: where the round began.

    Raises:
        ValueError: if it is no mapping of arrays, a name is missing or unknown, or an array has another shape or type,
            or holds NaN or infinity.

    Example:
        >>> check_update({"adapter/a": np.array([np.nan])}, {"adapter/a": np.zeros(1)})
        Traceback (most recent call last):
        ValueError: 'adapter/a' holds a value that is not finite
    """
    if not isinstance(values, Mapping) or set(values) != set(reference):
        names = set(values) if isinstance(values, Mapping) else set()
        odd = sorted(map(str, names ^ set(reference)))
        raise ValueError(f"expected the {len(reference)} tensors of the job, differing in {shown(odd[0])}")
    for name, own in reference.items():
        value = values[name]
        if not isinstance(value, np.ndarray) or value.shape != own.shape or value.dtype.kind != "f":
            what = f"{value.dtype} of {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise ValueError(f"'{name}': expected floats of {own.shape}, got {shown(what)}")
        if not np.isfinite(value).all():
            raise ValueError(f"'{name}' holds a value that is not finite")


def check_weight(weight: Any) -> float:
    """Return the weight of a site, what its losses were divided by.

    Raises:
        ValueError: if it is no number above 0.
    """
    number = float(_WEIGHT.check(weight, "the weight of a site"))
    if number <= 0:
        raise ValueError(f"expected a weight above 0, got {number:g}: the losses of the site counted nothing")
    return number


def limited_update(
    values: Values, reference: Values, clip: float | None, noise: float, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    r"""Shorten an update to a length, and add Gaussian noise to it.

    With u the update over all tensors: :math:`u \min(1, c / |u|_2) + N(0, (\sigma c)^2)`. It is what differentially
    private training does to a gradient; no guarantee is claimed here, since the rounds are not accounted for.

    Args:
        values: of the site after its round.
        reference: where the round began.
        clip: c; None changes nothing.
        noise: sigma; 0 adds none.
        generator: of the noise.

    Example:
        >>> limited_update({"a": np.array([3.0, 4.0])}, {"a": np.zeros(2)}, 1.0, 0.0, np.random.default_rng(0))
        {'a': array([0.6, 0.8])}
    """
    if clip is None:
        return dict(values)
    factor = min(1.0, clip / max(_length(values, reference), 1e-30))
    limited = {}
    for name, own in reference.items():
        update = (values[name] - own) * factor
        drawn = generator.normal(0.0, noise * clip, own.shape) if noise else 0.0
        limited[name] = (own + update + drawn).astype(values[name].dtype)
    return limited


def averaged(updates: Mapping[str, tuple[Values, float]], start: Start, reference: Values) -> SiteAverage:
    """Average the updates of the sites by their weights, in float64.

    A site whose update is more than ten times as long as the median is left out and named, so that it cannot pull the
    average to itself. For APLA, norms and biases the result is the adapter of the averaged effective weights; for LoRA
    that is the average of the products, cut back to the rank of the job.

    Args:
        updates: values and weight of each site, of which :func:`check_update` has passed the values.
        start: of the job.
        reference: where the round began.

    Raises:
        ValueError: if no site is left.
    """
    kept, left_out = _within_range(updates, reference)
    if not kept:
        reasons = "; ".join(left_out.values()) or "none sent an adapter, and the log of each of them says why"
        raise ValueError(f"no site is left to average: {reasons}")
    total = math.fsum(weight for _, weight in kept.values())
    shares = {site: weight / total for site, (_, weight) in kept.items()}
    values = {
        name: sum(shares[site] * kept[site][0][name].astype(np.float64) for site in kept).astype(own.dtype)  # type: ignore[union-attr]
        for name, own in reference.items()
    }
    errors: dict[str, float] = {}
    methods = start.adapter.record["methods"]
    rank = next((entry["values"]["rank"] for entry in methods if entry["name"] == "LoRA"), None)
    if len(kept) > 1:
        files = [_named(start.with_values(kept[site][0]).adapter, site) for site in kept]
        average = average_adapters(files, [kept[site][1] for site in kept], rank)
        errors = average.errors
        own = Start(AdapterFile(start.adapter.path, average.tensors, start.adapter.record), {})
        values |= own.values()
    return SiteAverage(values, shares, left_out, errors)


def sent_list(values: Values, weight: float) -> list[dict[str, Any]]:
    """List what leaves a site, byte by byte: each tensor with its digest, and the weight of the site."""
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "shape": list(value.shape),
            "bytes": value.nbytes,
            "sha256": sha256(np.ascontiguousarray(value).tobytes()),
        }
        for name, value in values.items()
    ]
    return [*rows, {"name": "weight", "value": weight, "bytes": 8}]


def _within_range(
    updates: Mapping[str, tuple[Values, float]], reference: Values
) -> tuple[dict[str, tuple[Values, float]], dict[str, str]]:
    lengths = {site: _length(values, reference) for site, (values, _) in updates.items()}
    middle = statistics.median_low(lengths.values()) if lengths else 0.0
    left_out = {
        site: f"{site} is {length:.3g} from where the round began, more than {_LARGEST_UPDATE:g} times the median of "
        f"{middle:.3g}"
        for site, length in lengths.items()
        if length > _LARGEST_UPDATE * middle > 0
    }
    return {site: update for site, update in updates.items() if site not in left_out}, left_out


def _length(values: Values, reference: Values) -> float:
    return math.sqrt(
        math.fsum(float(np.square(values[name].astype(np.float64) - own).sum()) for name, own in reference.items())
    )


def _taken(values: Values, name: str, own: Tensor) -> Tensor:
    if name not in values:
        return own  # it is the same everywhere
    return torch.from_numpy(np.array(values[name])).to(own.dtype)


def _named(file: AdapterFile, site: str) -> AdapterFile:
    return AdapterFile(Path(site), file.tensors, file.record)
