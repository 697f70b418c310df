# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The report of a load: every tensor with a reason, and notes on precision, epsilons and random parts."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn

from monai_essa.anatomy.parts import dead_parameters, encoder_layers, part_of
from monai_essa.licence import licence_line
from monai_essa.outside import printable
from monai_essa.weights.alignment import Alignment

__all__ = ["TensorEntry", "WeightReport", "named_shapes", "notes_of"]

_LOADED = ("matched", "renamed", "inflated", "interpolated", "rearranged")
_KINDS = (*_LOADED, "folded", "skipped", "missing", "accepted")


@dataclass(frozen=True)
class TensorEntry:
    """One tensor.

    Attributes:
        name: in the network; for a skipped or folded tensor its key in the file.
        source: key in the file; empty for a tensor that the file does not have.
        elements: number of its values in the network, or in the file for a skipped or folded tensor.
        reason: what was done with it, or why it was not loaded.
    """

    name: str
    source: str
    elements: int
    reason: str = ""


@dataclass(frozen=True)
class WeightReport:
    """What one call of ``load_weights`` did; every tensor of the file is in exactly one of these lists: ``matched``,
    ``renamed``, ``inflated``, ``interpolated``, ``rearranged``, ``folded`` and ``skipped``.

    Attributes:
        file: name of the file, without its folder.
        sha256: of the file.
        key_map: the family of files that it belongs to.
        prefix: the prefix of the file's keys, which was stripped.
        matched: loaded unchanged, with names that are equal except for prefixes.
        renamed: loaded unchanged under another name.
        inflated: loaded after a change of input channels, depth or patch size.
        interpolated: position embeddings loaded on another grid.
        folded: a part of another tensor now: scales that were multiplied into the layer before them, keys and values
            that the file keeps apart from the queries.
        skipped: in the file, not loaded.
        missing: in the network, not loaded: these keep their values. Tensors that no forward pass reaches are left out.
        accepted: the skipped and missing tensors of the encoder that ``accept`` names; without it the file would have
            been refused.
        encoder_share: share of the encoder's values that were loaded, including buffers. Values of the file's encoder
            for which the network has no place count as not loaded.
        notes: other facts in words: another precision, another epsilon, parts that stay random.
        preprocessing: the card in the file's metadata, or what the family expects as far as it is known, or None.
        rearranged: loaded after tensors of the file were joined, or the class token took over its position.
        family: name of the family in :mod:`monai_essa.weights.families`, or None if the file is of none that is known.
        origin: family, licence and authors of the base, the fields of :data:`monai_essa.licence.ORIGIN`; None for
            weights that nobody else published.
    """

    file: str
    sha256: str
    key_map: str
    prefix: str
    matched: tuple[TensorEntry, ...]
    renamed: tuple[TensorEntry, ...]
    inflated: tuple[TensorEntry, ...]
    interpolated: tuple[TensorEntry, ...]
    folded: tuple[TensorEntry, ...]
    skipped: tuple[TensorEntry, ...]
    missing: tuple[TensorEntry, ...]
    accepted: tuple[TensorEntry, ...]
    encoder_share: float
    notes: tuple[str, ...] = ()
    preprocessing: Any = None
    rearranged: tuple[TensorEntry, ...] = ()
    family: str | None = None
    origin: Mapping[str, Any] | None = None

    @property
    def loaded(self) -> frozenset[str]:
        """Names in the network of the tensors that were loaded."""
        return frozenset(entry.name for kind in _LOADED for entry in getattr(self, kind))

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values that :mod:`json` can write."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        head = (
            f"{self.file} (sha256 {self.sha256[:12]}, keys '{self.key_map}', prefix '{self.prefix}'): "
            f"{math.floor(1000 * self.encoder_share) / 10}% of the encoder loaded"
        )
        return "\n".join([head, *self._origin(), *self._rows(), *(f"  note: {note}" for note in self.notes)])

    def _origin(self) -> Iterator[str]:
        if self.origin is not None:
            yield f"  family {self.family or 'unknown'}, licence {licence_line(self.origin)}"
            yield from (f"  cite {each}" for each in self.origin["cite"])
        if self.preprocessing:
            yield f"  expects {printable(str(self.preprocessing))}"

    def _rows(self) -> Iterator[str]:
        for kind in _KINDS:
            entries: tuple[TensorEntry, ...] = getattr(self, kind)
            if entries:
                elements = sum(entry.elements for entry in entries)
                yield f"  {kind:12} {len(entries):5} tensors {elements:13,} values  {_reasons(entries)}".rstrip()


def named_shapes(names: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    """Return shapes by canonical name, with ``names`` from canonical names to the keys of the tensors."""
    return {name: tensors[key].shape for name, key in names.items()}


def notes_of(
    network: nn.Module, alignment: Alignment, dtypes: Mapping[str, torch.dtype], missing: Sequence[TensorEntry]
) -> Iterator[str]:
    """Describe in words what the lists of a report do not show.

    Args:
        network: the network that the weights are for.
        alignment: of the file and the network.
        dtypes: of the loaded tensors in the file, by canonical name.
        missing: tensors of the network that are not loaded.

    Yields:
        A sentence for each fact.
    """
    yield from _other_precision(network, alignment, dtypes)
    yield from _other_epsilon(network, alignment)
    yield from _left_as_they_were(network, missing)


def _reasons(entries: tuple[TensorEntry, ...]) -> str:
    """Group entries by reason, the most frequent first, each with one example."""
    groups: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        groups[entry.reason].append(entry.name)
    common = sorted(groups.items(), key=lambda group: -len(group[1]))
    shown = [
        f"{reason} ({len(names)}, e.g. {names[0]})" if len(names) > 1 else f"{reason} ({names[0]})"
        for reason, names in common
        if reason
    ]
    return "; ".join(shown[:3]) + (f"; and {len(shown) - 3} more" if len(shown) > 3 else "")


def _other_precision(network: nn.Module, alignment: Alignment, dtypes: Mapping[str, torch.dtype]) -> Iterator[str]:
    own = network.state_dict()
    pairs = Counter((dtype, own[alignment.places[name]].dtype) for name, dtype in dtypes.items())
    for (theirs, ours), count in pairs.items():
        if theirs != ours:
            yield f"{count} tensors are {_name(theirs)} in the file and {_name(ours)} in the network"


def _other_epsilon(network: nn.Module, alignment: Alignment) -> Iterator[str]:
    norms = (network.get_submodule(path) for path in encoder_layers(network, (nn.LayerNorm,)))
    epsilons = sorted({norm.eps for norm in norms if isinstance(norm, nn.LayerNorm)})
    theirs = alignment.key_map.norm_eps
    if theirs is not None and epsilons and epsilons != [theirs]:
        ours = ", ".join(f"{eps:g}" for eps in epsilons)
        yield f"layer norms: epsilon {theirs:g} in files of this family, {ours} in the network, which was not changed"


def _left_as_they_were(network: nn.Module, missing: Sequence[TensorEntry]) -> Iterator[str]:
    dead = dead_parameters(network)
    totals = Counter(part_of(network, name) for name in network.state_dict() if name not in dead)
    counts = Counter(part_of(network, entry.name) for entry in missing)
    for part, count in counts.items():
        yield f"the {part} keeps the values that it had in {count} of {totals[part]} tensors"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
