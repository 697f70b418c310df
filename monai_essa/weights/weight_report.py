# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What became of every tensor of a weight file, and of every tensor of the network."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["TensorEntry", "WeightReport"]

_LOADED = ("matched", "renamed", "inflated", "interpolated")
_KINDS = (*_LOADED, "folded", "skipped", "missing", "accepted")


@dataclass(frozen=True)
class TensorEntry:
    """One tensor.

    Attributes:
        name: in the network; for a skipped or folded tensor its key in the file.
        source: key in the file; empty for a tensor that the file does not have.
        elements: number of its elements, in the network; for a skipped or folded tensor in the file.
        reason: what was done with it, or why it was not loaded.
    """

    name: str
    source: str
    elements: int
    reason: str = ""


@dataclass(frozen=True)
class WeightReport:
    """The truth about one call of ``load_weights``; every tensor of the file is in exactly one of the first six lists.

    Attributes:
        file: name of the file, without its folder.
        sha256: of the file.
        key_map: the family of files that it belongs to.
        prefix: of the file's keys that was stripped.
        matched: loaded as they are; names equal but for the prefixes.
        renamed: loaded as they are under another name.
        inflated: loaded after a change of input channels or depth.
        interpolated: position embeddings loaded on another grid.
        folded: scales of the file, multiplied into the layer before them.
        skipped: in the file, not loaded.
        missing: in the network, not loaded: these keep the values that they had. Tensors that no forward pass reaches
            are left out.
        accepted: tensors of the encoder among the skipped and the missing that ``accept`` names: without it the file
            would have been refused.
        encoder_share: share of the encoder's values that were loaded, buffers included. Values of the file's encoder
            for which the network has no place count as not loaded.
        notes: what else a user should know, in words: other precision, another epsilon, parts that stay random.
        preprocessing: the card in the file's metadata, or None.
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
        return "\n".join([head, *self._rows(), *(f"  note: {note}" for note in self.notes)])

    def _rows(self) -> Iterator[str]:
        for kind in _KINDS:
            entries: tuple[TensorEntry, ...] = getattr(self, kind)
            if entries:
                elements = sum(entry.elements for entry in entries)
                yield f"  {kind:12} {len(entries):5} tensors {elements:13,} values  {_reasons(entries)}".rstrip()


def _reasons(entries: tuple[TensorEntry, ...]) -> str:
    """Group entries by reason, the commonest first, each with one example."""
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
