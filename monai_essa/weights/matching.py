# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Decide what happens to every tensor of a file and of the network, without changing the network."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn

from monai_essa.anatomy.parts import dead_parameters
from monai_essa.anatomy.positions import POSITIONS
from monai_essa.anatomy.tensor_names import option_behind
from monai_essa.weights.alignment import Alignment
from monai_essa.weights.file import WeightFile, unlike, unreadable
from monai_essa.weights.fit import FirstLayer, Fit, Grids, fit
from monai_essa.weights.layout import Layout, to_monai_layout
from monai_essa.weights.report import TensorEntry, WeightReport, notes_of

__all__ = ["Differences", "LoadingPlan", "make_plan"]


@dataclass(frozen=True)
class Differences:
    """Tensors in which the encoders of file and network differ, and which the caller did not accept.

    Attributes:
        only_in_file: tensors of the file's encoder without a place in the network.
        only_in_network: tensors of the network's encoder that are not in the file.
        unfit: tensors on both sides, with another shape or kind of values.
    """

    only_in_file: tuple[TensorEntry, ...]
    only_in_network: tuple[TensorEntry, ...]
    unfit: tuple[TensorEntry, ...]

    def __bool__(self) -> bool:
        return bool(self.only_in_file or self.only_in_network or self.unfit)


@dataclass(frozen=True)
class LoadingPlan:
    """What loading would do.

    Attributes:
        tensors: the tensors to copy, by name and in the shapes of the network.
        report: what is true after they are copied.
        differences: reasons why they must not be copied.
        alignment: of the file and the network.
        grid: token grid of the position embeddings after they are copied; None if unknown.
    """

    tensors: dict[str, torch.Tensor]
    report: WeightReport
    differences: Differences
    alignment: Alignment
    grid: tuple[int, ...] | None


def make_plan(
    file: WeightFile,
    network: nn.Module,
    alignment: Alignment,
    grids: Grids | None,
    accept: Sequence[str] = (),
    first_layer: FirstLayer | None = None,
) -> LoadingPlan:
    """Fit every tensor of the file that has a place in the network, and account for all others.

    Args:
        file: the weight file.
        network: the plain network to load into; only read.
        alignment: the canonical names of both sides.
        grids: of the position embeddings.
        accept: patterns of tensors of the encoder that may differ; full match on the name in the network, on the key in
            the file, or on the key without the prefix.
        first_layer: how the convolution that reads the image is fitted; default: :class:`FirstLayer`'s defaults.

    Returns:
        The plan.
    """
    own = network.state_dict()
    incoming = {name: file.tensors[key] for name, key in alignment.keys.items()}
    readable = {name: tensor for name, tensor in incoming.items() if not unreadable(tensor)}
    layout = to_monai_layout(readable, alignment.key_map, grids)
    how = first_layer or FirstLayer()
    fits = {
        name: _fit(name, incoming, layout, own[alignment.places[name]], grids, how)
        for name in alignment.shared
        if name not in layout.absorbed
    }
    taken = {name: fitted for name, fitted in fits.items() if fitted.kind != "skipped"}
    same = tuple(_loaded("matched", taken, alignment))
    skipped = tuple(_skipped(file, network, alignment, fits, layout.absorbed))
    missing = tuple(_missing(network, own, alignment, fits))
    differences, accepted = _sort_out(_differences(skipped, missing, alignment), accept, alignment.prefix)
    report = WeightReport(
        file=file.name,
        sha256=file.sha256,
        key_map=alignment.key_map.name,
        prefix=alignment.prefix,
        matched=tuple(entry for entry in same if not entry.reason),
        renamed=tuple(entry for entry in same if entry.reason),
        inflated=tuple(_loaded("inflated", taken, alignment)),
        interpolated=tuple(_loaded("interpolated", taken, alignment)),
        rearranged=tuple(_loaded("rearranged", taken, alignment)),
        folded=tuple(_folded(layout.absorbed, incoming, alignment)),
        skipped=skipped,
        missing=missing,
        accepted=accepted,
        encoder_share=_encoder_share(own, alignment, taken, differences, accepted),
        notes=tuple(notes_of(network, alignment, {name: incoming[name].dtype for name in taken}, missing)),
        preprocessing=file.preprocessing,
    )
    return LoadingPlan(
        tensors={alignment.places[name]: fitted.tensor for name, fitted in taken.items()},
        report=report,
        differences=differences,
        alignment=alignment,
        grid=(grids.target or grids.source) if grids and POSITIONS in taken else None,
    )


def _fit(
    name: str,
    incoming: Mapping[str, torch.Tensor],
    layout: Layout,
    place: torch.Tensor,
    grids: Grids | None,
    how: FirstLayer,
) -> Fit:
    tensor = incoming[name]
    if reason := unreadable(tensor):
        return Fit("skipped", tensor, reason)
    fitted = fit(name, layout.tensors[name], place.shape, grids, how)
    reason = unlike(name, tensor, place) if fitted.kind != "skipped" else None
    if reason:
        return Fit("skipped", tensor, reason)
    done = layout.rearranged.get(name)
    if done is None or fitted.kind == "skipped":
        return fitted
    kind = "rearranged" if fitted.kind == "matched" else fitted.kind
    return Fit(kind, fitted.tensor, "; ".join(each for each in (done, fitted.reason) if each))


def _loaded(kind: str, taken: Mapping[str, Fit], alignment: Alignment) -> Iterator[TensorEntry]:
    for name, fitted in taken.items():
        if fitted.kind == kind:
            key, place = alignment.keys[name], alignment.places[name]
            reason = fitted.reason or (f"'{key}' in the file" if alignment.is_renamed(name) else "")
            yield TensorEntry(place, key, fitted.tensor.numel(), reason)


def _folded(
    absorbed: Mapping[str, str], incoming: Mapping[str, torch.Tensor], alignment: Alignment
) -> Iterator[TensorEntry]:
    for name in (name for name in incoming if name in absorbed):
        key = alignment.keys[name]
        yield TensorEntry(key, key, incoming[name].numel(), absorbed[name])


def _skipped(
    file: WeightFile, network: nn.Module, alignment: Alignment, fits: Mapping[str, Fit], folded: Collection[str]
) -> Iterator[TensorEntry]:
    names = {key: name for name, key in alignment.keys.items()}
    for key, tensor in file.tensors.items():
        name = names.get(key)
        if name is None:
            double = key in alignment.doubles or key.startswith(alignment.prefix)
            why = (
                "another tensor of the file has the same place"
                if double
                else f"outside the prefix '{alignment.prefix}'"
            )
            yield TensorEntry(key, key, tensor.numel(), why)
        elif name not in fits and name not in folded:
            yield TensorEntry(key, key, tensor.numel(), _why_no_place(name, network, alignment))
        elif name in fits and fits[name].kind == "skipped":
            yield TensorEntry(key, key, tensor.numel(), fits[name].reason)


def _why_no_place(name: str, network: nn.Module, alignment: Alignment) -> str:
    if option := option_behind(name, alignment.places):
        return f"{type(network).__name__} was built without {option}"
    if refused := alignment.key_map.why_refused(name):
        return refused
    return alignment.key_map.why_ignored(name) or f"{type(network).__name__} has no place for it"


def _missing(
    network: nn.Module, own: Mapping[str, torch.Tensor], alignment: Alignment, fits: Mapping[str, Fit]
) -> Iterator[TensorEntry]:
    dead = dead_parameters(network)
    for name, place in alignment.places.items():
        if place in dead:
            continue
        if name not in fits:
            yield TensorEntry(place, "", own[place].numel(), _why_missing(name, alignment))
        elif fits[name].kind == "skipped":
            yield TensorEntry(place, alignment.keys[name], own[place].numel(), fits[name].reason)


def _why_missing(name: str, alignment: Alignment) -> str:
    if option := option_behind(name, alignment.keys):
        return f"not in the file, which was made without {option}"
    return alignment.key_map.why_optional(name) or "not in the file"


def _differences(skipped: Sequence[TensorEntry], missing: Sequence[TensorEntry], alignment: Alignment) -> Differences:
    """Select the tensors of either encoder that no rule of the family covers."""
    key_map, needed = alignment.key_map, {alignment.places[name]: name for name in alignment.encoder}
    homeless = {
        key
        for name, key in alignment.keys.items()
        if name in alignment.file_encoder and name not in alignment.places and not key_map.why_ignored(name)
    }
    return Differences(
        tuple(entry for entry in skipped if entry.name in homeless or entry.name in alignment.doubles),
        tuple(e for e in missing if e.name in needed and not e.source and not key_map.why_optional(needed[e.name])),
        tuple(entry for entry in missing if entry.name in needed and entry.source),
    )


def _sort_out(found: Differences, accept: Sequence[str], prefix: str) -> tuple[Differences, tuple[TensorEntry, ...]]:
    """Separate the differences that the caller accepts from the others."""
    patterns = [re.compile(pattern) for pattern in accept]

    def accepted(entry: TensorEntry) -> bool:
        names = (entry.name, entry.source, entry.source.removeprefix(prefix))
        return any(pattern.fullmatch(name) for pattern in patterns for name in names)

    kinds = (found.only_in_file, found.only_in_network, found.unfit)
    others = Differences(*(tuple(entry for entry in kind if not accepted(entry)) for kind in kinds))
    return others, tuple(entry for kind in kinds for entry in kind if accepted(entry))


def _encoder_share(
    own: Mapping[str, torch.Tensor],
    alignment: Alignment,
    taken: Collection[str],
    differences: Differences,
    accepted: Sequence[TensorEntry],
) -> float:
    """Return the loaded share; the file's encoder counts too, since a part of a deeper encoder is another function."""
    sizes = {name: own[alignment.places[name]].numel() for name in alignment.encoder}
    homeless = sum(e.elements for e in (*differences.only_in_file, *accepted) if e.name not in own)
    total = sum(sizes.values()) + homeless
    return sum(size for name, size in sizes.items() if name in taken) / total if total else 0.0
