# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Decide what becomes of every tensor of a file and of the network, without touching the network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn as nn

from monai_essa.network_parts import dead_parameters, part_of
from monai_essa.weights.alignment import Alignment
from monai_essa.weights.diagnosis import option_behind
from monai_essa.weights.fit import Fit, fit
from monai_essa.weights.grids import Grids
from monai_essa.weights.layer_scale import fold_scales
from monai_essa.weights.weight_file import WeightFile
from monai_essa.weights.weight_report import TensorEntry, WeightReport

__all__ = ["Plan", "make_plan"]

# The modules of MONAI's encoders; what else a file holds beside them is a head or a decoder.
_ENCODER = re.compile(r"(patch_embed(ding)?|blocks|norm|layers\dc?)\..*")


@dataclass(frozen=True)
class Plan:
    """The tensors to copy, by name and in the shapes of the network, and the report that is true once they are."""

    tensors: dict[str, torch.Tensor]
    report: WeightReport


def make_plan(file: WeightFile, network: nn.Module, alignment: Alignment, grids: Grids | None) -> Plan:
    """Fit every tensor of the file that has a place, and account for every other one.

    Args:
        file: the weight file.
        network: the plain network to load into; only read.
        alignment: which tensor goes by which canonical name.
        grids: of the position embeddings.

    Returns:
        The plan.
    """
    own, places = network.state_dict(), alignment.places
    incoming = fold_scales({name: file.tensors[key] for name, key in alignment.keys.items()}, alignment.key_map)
    fits = {
        name: fit(name, tensor, own[places[name]].shape, grids) for name, tensor in incoming.items() if name in places
    }
    taken = {name: fitted for name, fitted in fits.items() if fitted.kind != "skipped"}
    same = tuple(_loaded("matched", taken, alignment))
    report = WeightReport(
        file=file.name,
        sha256=file.sha256,
        key_map=alignment.key_map.name,
        prefix=alignment.prefix,
        matched=tuple(entry for entry in same if not entry.reason),
        renamed=tuple(entry for entry in same if entry.reason),
        inflated=tuple(_loaded("inflated", taken, alignment)),
        interpolated=tuple(_loaded("interpolated", taken, alignment)),
        skipped=tuple(_skipped(file, network, alignment, fits)),
        missing=tuple(_missing(network, alignment, fits)),
        encoder_share=_encoder_share(network, alignment, incoming, taken),
        preprocessing=file.preprocessing,
    )
    return Plan({places[name]: fitted.tensor for name, fitted in taken.items()}, report)


def _loaded(kind: str, taken: Mapping[str, Fit], alignment: Alignment) -> Iterator[TensorEntry]:
    for name, fitted in taken.items():
        if fitted.kind == kind:
            key, place = alignment.keys[name], alignment.places[name]
            renamed = not place.endswith(key.removeprefix(alignment.prefix))
            reason = fitted.reason or (f"'{key}' in the file" if renamed else "")
            yield TensorEntry(place, key, fitted.tensor.numel(), reason)


def _skipped(
    file: WeightFile, network: nn.Module, alignment: Alignment, fits: Mapping[str, Fit]
) -> Iterator[TensorEntry]:
    names = {key: name for name, key in alignment.keys.items()}
    for key, tensor in file.tensors.items():
        name = names.get(key)
        if not key.startswith(alignment.prefix):
            yield TensorEntry(key, key, tensor.numel(), f"outside the prefix '{alignment.prefix}'")
        elif name is None:
            yield TensorEntry(key, key, tensor.numel(), "another tensor of the file has the same place")
        elif name not in fits:
            yield TensorEntry(key, key, tensor.numel(), _why_no_place(name, network, alignment))
        elif fits[name].kind == "skipped":
            yield TensorEntry(key, key, tensor.numel(), fits[name].reason)


def _why_no_place(name: str, network: nn.Module, alignment: Alignment) -> str:
    layer, option = alignment.key_map.folds_into(name), option_behind(name, alignment.places)
    if layer:
        return f"multiplied into {layer}"
    if option:
        return f"{type(network).__name__} was built without {option}"
    return alignment.key_map.why_ignored(name) or f"{type(network).__name__} has no place for it"


def _missing(network: nn.Module, alignment: Alignment, fits: Mapping[str, Fit]) -> Iterator[TensorEntry]:
    own, dead = network.state_dict(), dead_parameters(network)
    for name, place in alignment.places.items():
        if place in dead:
            continue
        if name not in fits:
            option = option_behind(name, alignment.keys)
            reason = f"not in the file, which was made without {option}" if option else "not in the file"
            yield TensorEntry(place, "", own[place].numel(), reason)
        elif fits[name].kind == "skipped":
            yield TensorEntry(place, "", own[place].numel(), fits[name].reason)


def _encoder_share(
    network: nn.Module, alignment: Alignment, incoming: Mapping[str, torch.Tensor], taken: Mapping[str, Fit]
) -> float:
    """Count the file's encoder too: a part of a deeper encoder is another function than the one that was trained."""
    dead, loaded = dead_parameters(network), {alignment.places[name] for name in taken}
    sizes = {
        place: parameter.numel()
        for place, parameter in network.named_parameters()
        if part_of(network, place) == "encoder" and place not in dead
    }
    homeless = sum(
        tensor.numel()
        for name, tensor in incoming.items()
        if name not in alignment.places
        and tensor.is_floating_point()
        and _ENCODER.fullmatch(name)
        and not alignment.key_map.why_ignored(name)
    )
    total = sum(sizes.values()) + homeless
    return sum(size for place, size in sizes.items() if place in loaded) / total if total else 0.0
