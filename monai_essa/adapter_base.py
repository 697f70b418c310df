# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Which base an adapter belongs to: names relative to the encoder, fingerprints, and the checks before loading."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from monai_essa.lean_marks import plain_state
from monai_essa.methods.method import AdaptationMethod
from monai_essa.network_parts import dead_parameters, encoder_prefix, part_of

__all__ = ["base_fingerprint", "check_same_base", "check_same_claims", "file_name", "network_name"]


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
    """Give the name that a tensor of an adapter file has in this network."""
    place, _, rest = name.partition(":")
    return encoder_prefix(network) + rest if place == "encoder" else rest


def base_fingerprint(network: nn.Module, changing: Collection[str]) -> dict[str, str]:
    """Give a sha256 of each tensor of the encoder that the adaptation leaves alone, by its name in a file.

    Position embeddings are left out: a stage with crops of another size has the same base, with them interpolated.

    Args:
        network: an adapted network.
        changing: names of the tensors that may differ from the base.
    """
    left_out = {*changing, *dead_parameters(network)}
    return {
        file_name(network, name): _sha256(tensor)
        for name, tensor in plain_state(network).items()
        if name not in left_out and part_of(network, name) == "encoder" and not name.endswith("position_embeddings")
    }


def check_same_base(network: nn.Module, record: Mapping[str, Any], path: Path) -> None:
    """Compare the fingerprints in an adapter file's record with the network; names that both hold count.

    Raises:
        ValueError: if a tensor differs, or none is shared.
    """
    state = plain_state(network)
    theirs = {network_name(network, name): digest for name, digest in record["fingerprint"].items()}
    both = [name for name in theirs if name in state]
    differ = [name for name in both if _sha256(state[name]) != theirs[name]]
    if theirs and (differ or not both):
        count = (
            f"{len(differ)} of {len(both)} frozen tensors differ, first '{differ[0]}'"
            if both
            else "no tensor is shared"
        )
        raise ValueError(
            f"{path} was trained on another base: {count}; load the same pretrained weights into {record['network']} "
            "before the adapter"
        )


def check_same_claims(
    network: nn.Module, record: Mapping[str, Any], path: Path, methods: Sequence[AdaptationMethod]
) -> None:
    """Compare the tensors that the file's methods act on with those that they would act on here.

    Raises:
        ValueError: if the network has other layers, such as another depth.
    """
    here = {file_name(network, name) for method in methods for name in method.claims(network)}
    differ = sorted(here.symmetric_difference(record["claims"]))
    if differ:
        raise ValueError(
            f"{path} was made for {record['network']} with other layers than this {type(network).__name__}: "
            f"{len(differ)} are on one side only, first '{differ[0]}'; build the network with the same depth and biases"
        )


def _sha256(tensor: torch.Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
