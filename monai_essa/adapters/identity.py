# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Check that a base is the right one for an adapter file, by checksums of its tensors and settings of its layers."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from monai_essa.adapters.adapted import base_tensors
from monai_essa.anatomy.described.description import description_facts
from monai_essa.anatomy.layer_facts import layer_fact, network_fact
from monai_essa.anatomy.parts import dead_parameters, encoder_prefix, part_of
from monai_essa.anatomy.positions import is_position_table, kept_grid
from monai_essa.files import sha256
from monai_essa.methods.method import AdaptationMethod, AdapterLayer

__all__ = [
    "base_fingerprint",
    "base_identity",
    "check_same_base",
    "check_same_claims",
    "check_values",
    "encoder_facts",
    "file_name",
    "network_name",
    "position_grid",
    "sha256_of",
    "sha256_of_all",
]

_logger = logging.getLogger(__name__)


def file_name(network: nn.Module, name: str) -> str:
    """Return the name of a tensor in an adapter file: ``encoder:`` and its name there, or ``network:`` and its name.

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
    """Return a sha256 of each tensor of the base's encoder that an adapter file does not hold, by name in the file.

    Parameters and buffers count; parameters that no forward pass reaches do not.

    Args:
        network: plain or adapted.
        held: names of the tensors in the file.
    """
    return {name: sha256_of(tensor) for name, tensor in _encoder_tensors(network).items() if name not in held}


def base_identity(network: nn.Module, held: Collection[str]) -> dict[str, Any]:
    """Return the fields of a record that identify the base: fingerprint, facts and grids of position embeddings.

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
    """Compare the base of a record with that of a network, in both directions.

    The names of the tensors, the settings of the layers and a digest of each frozen tensor have to agree. Position
    embeddings are compared if both grids are equal; otherwise they were interpolated to another crop size, which is
    logged. A record of format 1 has no facts; a warning says what is unverified then.

    Args:
        network: plain or adapted.
        record: of the adapter file.
        path: of the adapter file, for messages.
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
    """Compare the tensors that the file's methods act on with those that the methods would act on in this network.

    Raises:
        ValueError: if the network has other layers, such as another depth.
    """
    here = {file_name(network, name) for method in methods for name in method.claims(network)}
    _refuse_one_sided(here, set(record["claims"]), network, record, path)


def sha256_of(tensor: torch.Tensor) -> str:
    """Return the sha256 of number format, shape and bytes.

    Example:
        >>> sha256_of(torch.zeros(2)) == sha256_of(torch.zeros(2, 1))
        False
    """
    content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
    return sha256(f"{tensor.dtype} {tuple(tensor.shape)}", content)


def sha256_of_all(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of names, number formats, shapes and bytes of tensors, in the order of their names."""
    return sha256(*(f"{name}\n{sha256_of(tensors[name])}\n" for name in sorted(tensors)))


def check_values(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Check that values are finite, that variances and indices are not negative, and that no index occurs twice.

    A tensor of integers with one axis holds indices, as APLA's ``columns`` do.

    Args:
        tensors: by name.
        where: the file, for messages.

    Raises:
        ValueError: if a tensor has another value; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{where}: '{name}' holds NaN or infinity; the training that made it diverged")
        unsigned = not tensor.is_floating_point() or name.endswith("running_var")
        if unsigned and tensor.numel() and tensor.min() < 0:
            raise ValueError(f"{where}: '{name}' holds {tensor.min().item()}, expected nothing below 0")
        if not tensor.is_floating_point() and tensor.dim() == 1 and len(tensor.unique()) != len(tensor):
            raise ValueError(f"{where}: '{name}' holds an index twice, expected each once")


def encoder_facts(network: nn.Module) -> dict[str, str]:
    """Return the class and the settings of each layer of the encoder, by path within the encoder.

    Args:
        network: a MONAI network; the result is the same whether it is plain, adapted or lean.

    Returns:
        A line of text for each layer; settings of the whole network are under ``network CLASS``.

    Example:
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> encoder_facts(net)["blocks.0.norm1"]
        'LayerNorm eps=1e-05'
    """
    prefix = encoder_prefix(network)
    facts = {}
    for path, module in _plain_modules(network, "", dead_parameters(network)):
        name = path.removeprefix(prefix)
        inside = path.startswith(prefix) and name and part_of(network, f"{path}.") == "encoder"
        # A module without tensors right below the encoder is shared with the decoder, such as SegResNet's activation.
        if inside and ("." in name or module.state_dict()) and (fact := layer_fact(module)):
            facts[name] = fact
    whole = network_fact(network)
    facts |= description_facts(network)
    return facts | ({f"network {type(network).__name__}": whole} if whole else {})


def position_grid(network: nn.Module, tokens: int) -> list[int]:
    """Return the grid of position embeddings, or only the number of tokens if the network does not keep its grid."""
    return list(kept_grid(network) or (tokens,))


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
        if is_position_table(name)
    }


def _other_grids(network: nn.Module, record: Mapping[str, Any]) -> dict[str, str]:
    """Describe the position embeddings whose grid differs from that of the file; format 1 has no digest of them."""
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
        ours = {name for name in ours if not is_position_table(name)}
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
    # Settings of the whole network are compared for the same class only: two classes may share an encoder.
    names = {name for name in ours.keys() | theirs.keys() if not name.startswith("network ")} | (ours.keys() & theirs)
    differ = sorted(name for name in names if ours.get(name) != theirs.get(name))
    if differ:
        there, here = theirs.get(differ[0], "nothing"), ours.get(differ[0], "nothing")
        advice = (
            "pass the anatomy= that the file was made with"
            if differ[0].startswith("description ")
            else "build the network with the same heads, window, norms and activations"
        )
        raise ValueError(
            f"{path} was made for {record['network']} with other settings than this {type(network).__name__}: "
            f"{len(differ)} of {len(names)} layers differ, first '{differ[0]}': {there} there, {here} here; {advice}"
        )


def _other_base(record: Mapping[str, Any], path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path} was trained on another base: {why}; load the same pretrained weights into {record['network']} "
        "before the adapter"
    )


def _plain_modules(module: nn.Module, path: str, dead: frozenset[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules as they were before adapt, without those that no forward pass reaches."""
    plain = module.plain() if isinstance(module, AdapterLayer) else module
    if path:
        yield path, plain
    for name, child in plain.named_children():
        inner = f"{path}.{name}" if path else name
        own = [f"{inner}.{parameter}" for parameter, _ in child.named_parameters()]
        if not own or not dead.issuperset(own):
            yield from _plain_modules(child, inner, dead)
