# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a user should know of a load beside the fate of each tensor: precision, epsilons, parts that stay random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn as nn

from monai_essa.network_parts import dead_parameters, encoder_layers, part_of
from monai_essa.weights.alignment import Alignment
from monai_essa.weights.weight_report import TensorEntry

__all__ = ["notes_of"]


def notes_of(
    network: nn.Module, alignment: Alignment, dtypes: Mapping[str, torch.dtype], missing: Sequence[TensorEntry]
) -> Iterator[str]:
    """Say in words what the lists of a report do not.

    Args:
        network: the network that the weights are for.
        alignment: of the file and the network.
        dtypes: of the tensors that are loaded, as the file has them, by canonical name.
        missing: tensors of the network that are not loaded.

    Yields:
        A sentence for each fact.
    """
    yield from _other_precision(network, alignment, dtypes)
    yield from _other_epsilon(network, alignment)
    yield from _left_as_they_were(network, missing)


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
