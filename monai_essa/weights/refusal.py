# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Refuse a weight file that would leave a network worse than its user believes."""

from __future__ import annotations

import re

import torch.nn as nn

from monai_essa.weights.alignment import Alignment
from monai_essa.weights.diagnosis import differences, named_shapes
from monai_essa.weights.grids import POSITIONS
from monai_essa.weights.plan import Plan
from monai_essa.weights.weight_file import WeightFile

__all__ = ["refuse_insufficient", "refuse_unfit_network", "refuse_unknown_names"]

_PATCHES = r"(patch_embedding\.patch_embeddings(\.1)?|patch_embed\.proj)\.weight"


def refuse_unfit_network(network: nn.Module) -> None:
    """Raise a ValueError if the network is adapted already: its adapter was made for the weights that it has."""
    if hasattr(network, "_monai_essa_adaptation"):
        raise ValueError(
            f"{type(network).__name__} is adapted; load before patching: adapt(...) comes after load_weights(...)"
        )


def refuse_unknown_names(file: WeightFile, network: nn.Module, alignment: Alignment) -> None:
    """Raise a ValueError if not one tensor of the file has a name of the network."""
    if not alignment.shared:
        raise ValueError(
            f"{file.name}: none of its {len(file.tensors)} tensors has a name of {type(network).__name__}; "
            f"the file holds '{next(iter(file.tensors))}', the network '{next(iter(network.state_dict()))}'; "
            f"give weights of this architecture (nothing was loaded)"
        )


def refuse_insufficient(
    plan: Plan, file: WeightFile, network: nn.Module, alignment: Alignment, threshold: float
) -> None:
    """Raise a ValueError if values are not finite, or too little of the encoder would be loaded.

    Above a threshold of 0 the patch embedding and learnable position embeddings are needed whatever their share: an
    encoder that does not see its input as it was trained to is of no use.
    """
    for name, tensor in plan.tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{file.name}: '{name}' would get NaN or infinity; give another checkpoint")
    share, blind = plan.report.encoder_share, _input_left_out(plan, network, alignment)
    if share >= threshold and (not blind or threshold == 0):
        return
    shapes = named_shapes(alignment.keys, file.tensors), named_shapes(alignment.places, network.state_dict())
    raise ValueError(
        f"{file.name}: {share:.1%} of the encoder of {type(network).__name__} could be loaded, expected at least "
        f"{threshold:.0%} with its patch and position embeddings; "
        f"{'; '.join(differences(*shapes) + blind) or 'give weights of this architecture'} (nothing was loaded)"
    )


def _input_left_out(plan: Plan, network: nn.Module, alignment: Alignment) -> list[str]:
    needed = {place for name, place in alignment.places.items() if re.fullmatch(_PATCHES, name)}
    if POSITIONS in alignment.places:
        place = alignment.places[POSITIONS]
        learned = network.get_submodule(place.rpartition(".")[0]).pos_embed_type == "learnable"
        needed |= {place} if learned else set()
    return [f"'{entry.name}': {entry.reason}" for entry in plan.report.missing if entry.name in needed]
