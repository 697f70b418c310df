# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Which base an adapter belongs to: names relative to the encoder, fingerprints, and the checks before loading."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from monai_essa.adaptation import base_tensors
from monai_essa.adapter_tensors import sha256_of
from monai_essa.encoder_facts import encoder_facts, position_grid
from monai_essa.methods.method import AdaptationMethod
from monai_essa.network_parts import dead_parameters, encoder_prefix, part_of

__all__ = ["base_fingerprint", "base_identity", "check_same_base", "check_same_claims", "file_name", "network_name"]

_POSITIONS = "position_embeddings"
_logger = logging.getLogger(__name__)


def file_name(network: nn.Module, name: str) -> str:
    """Name a tensor as an adapter file does: ``encoder:`` and the name within the encoder, or ``network:`` and all.

    Example:
        >>> from monai.networks.nets import UNETR
        >>> net = UNETR(1, 2, 32, 4, 48, 96, 4, spatial_dims=2)
        >>> file_name(net, "vit.norm.weight"), file_name(net, "out.conv.conv.bias")
        ('encoder:norm.weight', 'network:out.conv.conv.bias')
    """
    if part_of(network, name) == "encoder":
        return f"encoder:{name.removeprefix(encoder_prefix(network))}"
    return f"network:{name}"


def network_name(network: nn.Module, name: str) -> str:
    """Return the name that a tensor of an adapter file has in this network."""
    place, _, rest = name.partition(":")
    return encoder_prefix(network) + rest if place == "encoder" else rest


def base_fingerprint(network: nn.Module, held: Collection[str]) -> dict[str, str]:
    """Return a sha256 of each tensor of the base's encoder that an adapter file does not hold, by its name there.

    Parameters and buffers count; parameters that no forward pass reaches do not.

    Args:
        network: plain or adapted.
        held: names of the tensors in the file.
    """
    return {name: sha256_of(tensor) for name, tensor in _encoder_tensors(network).items() if name not in held}


def base_identity(network: nn.Module, held: Collection[str]) -> dict[str, Any]:
    """Return the fields of a record that tell the base: fingerprint, facts and the grids of position embeddings.

    Args:
        network: plain or adapted.
        held: names of the tensors in the file.
    """
    return {
        "fingerprint": base_fingerprint(network, held),
        "facts": encoder_facts(network),
        "positions": _position_grids(network),
    }


def check_same_base(network: nn.Module, record: Mapping[str, Any], path: Path, held: Collection[str]) -> None:
    """Compare the base that a record tells of with that of a network, both ways.

    Names of tensors, what the layers are and a digest of each frozen tensor have to agree. Position embeddings are
    compared where both grids are equal; elsewhere they were interpolated to another size of crop, which is logged.
    A record of format 1 has no facts: a warning says what it leaves unverified.

    Args:
        network: plain or adapted.
        record: of the file.
        path: of the file, for messages.
        held: names of the tensors in the file.

    Raises:
        ValueError: if a tensor or a layer is on one side only or differs.
    """
    ours, theirs = _encoder_tensors(network), record["fingerprint"]
    if theirs and not ours.keys() & theirs.keys():
        raise _other_base(record, path, "no tensor is shared")
    _check_names(network, record, path, {name for name in ours if name not in held})
    if "facts" in record:
        _check_facts(network, record, path)
    else:
        _logger.warning(
            "%s has adapter format 1: heads, window and checksum of the file are unverified; save it anew", path
        )
    skipped = _other_grids(network, record)
    for grids in skipped.values():
        _logger.info("%s: %s; position embeddings were interpolated and are not compared", path, grids)
    compared = [name for name in theirs if name in ours and name not in skipped]
    differ = [name for name in compared if sha256_of(ours[name]) != theirs[name]]
    if differ:
        first = network_name(network, differ[0])
        raise _other_base(record, path, f"{len(differ)} of {len(compared)} frozen tensors differ, first '{first}'")


def check_same_claims(
    network: nn.Module, record: Mapping[str, Any], path: Path, methods: Sequence[AdaptationMethod]
) -> None:
    """Compare the tensors that the file's methods act on with those that they would act on here.

    Raises:
        ValueError: if the network has other layers, such as another depth.
    """
    here = {file_name(network, name) for method in methods for name in method.claims(network)}
    _refuse_one_sided(here, set(record["claims"]), network, record, path)


def _encoder_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    dead = dead_parameters(network)
    return {
        file_name(network, name): tensor
        for name, tensor in base_tensors(network).items()
        if name not in dead and part_of(network, name) == "encoder"
    }


def _position_grids(network: nn.Module) -> dict[str, list[int]]:
    return {
        name: position_grid(network, tensor.shape[1])
        for name, tensor in _encoder_tensors(network).items()
        if name.endswith(_POSITIONS)
    }


def _other_grids(network: nn.Module, record: Mapping[str, Any]) -> dict[str, str]:
    """Say which position embeddings are of another grid than the file's; format 1 has no digest of them."""
    skipped = {}
    theirs = record.get("positions", {})
    for name, grid in _position_grids(network).items():
        there = theirs.get(name, grid)
        known = len(there) == len(grid)
        if there != grid if known else math.prod(there) != math.prod(grid):
            skipped[name] = f"{name} {there} there, {grid} here"
    return skipped


def _check_names(network: nn.Module, record: Mapping[str, Any], path: Path, ours: set[str]) -> None:
    theirs = set(record["fingerprint"])
    if "facts" not in record:  # format 1 left position embeddings out
        ours = {name for name in ours if not name.endswith(_POSITIONS)}
    _refuse_one_sided(ours, theirs, network, record, path)


def _refuse_one_sided(
    ours: set[str], theirs: set[str], network: nn.Module, record: Mapping[str, Any], path: Path
) -> None:
    differ = sorted(ours ^ theirs)
    if differ:
        side = "this network" if differ[0] in ours else "the file"
        raise ValueError(
            f"{path} was made for {record['network']} with other layers than this {type(network).__name__}: "
            f"{len(differ)} are on one side only, first '{differ[0]}' ({side}); build the network with the same depth "
            "and biases"
        )


def _check_facts(network: nn.Module, record: Mapping[str, Any], path: Path) -> None:
    ours, theirs = encoder_facts(network), record["facts"]
    # Networks of two classes share an encoder, and what concerns the whole network is then no matter of both.
    names = {name for name in ours.keys() | theirs.keys() if not name.startswith("network ")} | (ours.keys() & theirs)
    differ = sorted(name for name in names if ours.get(name) != theirs.get(name))
    if differ:
        there, here = theirs.get(differ[0], "nothing"), ours.get(differ[0], "nothing")
        raise ValueError(
            f"{path} was made for {record['network']} with other settings than this {type(network).__name__}: "
            f"{len(differ)} of {len(names)} layers differ, first '{differ[0]}': {there} there, {here} here; build the "
            "network with the same heads, window, norms and activations"
        )


def _other_base(record: Mapping[str, Any], path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path} was trained on another base: {why}; load the same pretrained weights into {record['network']} "
        "before the adapter"
    )
