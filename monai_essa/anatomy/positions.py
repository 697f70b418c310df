# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The token grid that position embeddings were made for: keep it, write it into files, interpolate to another."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_essa.anatomy.parts import encoder_trunk, parts_of
from monai_essa.licence import kept_origin, states_origin

__all__ = [
    "POSITIONS",
    "check_grid",
    "has_positions",
    "interpolate_positions",
    "is_position_table",
    "keep_grid",
    "kept_grid",
    "state_with_grid",
]

POSITIONS = "patch_embedding.position_embeddings"
"""The position embeddings of an encoder, by their canonical name."""
_TABLES = re.compile(r"(.*\.)?(position_embeddings|decoder_pos_embedding|pos_embed)")
_MODES = {2: "bicubic", 3: "trilinear"}
_GRID = "_monai_essa_grid"


def interpolate_positions(
    positions: Tensor, source: Sequence[int], target: Sequence[int], antialias: bool = False
) -> Tensor:
    """Resample position embeddings from the grid they were made for to the grid of another crop.

    Interpolation is bicubic in 2-D, as usual for vision transformers (Dosovitskiy et al. 2021, arXiv 2010.11929,
    section 3.2, and the code of its successors), and trilinear in 3-D, for which torch has no cubic form. The field of
    view is stretched: the first and last token stay at the border.

    Args:
        positions: embeddings (1, N, D), N the product of ``source``; tokens in row-major order.
        source: grid of the embeddings.
        target: grid of the result.
        antialias: whether a smaller grid is low-pass filtered first, as timm does; in 2-D only.

    Returns:
        Embeddings (1, N', D), N' the product of ``target``; the same tensor if the grids agree.

    Raises:
        ValueError: if the number of embeddings is not that of the source grid.

    Example:
        >>> import torch
        >>> interpolate_positions(torch.zeros(1, 64, 48), (4, 4, 4), (2, 2, 6)).shape
        torch.Size([1, 24, 48])
    """
    if positions.shape[1] != math.prod(source):
        raise ValueError(
            f"expected {math.prod(source)} position embeddings for the grid {tuple(source)}, got {positions.shape[1]}; "
            f"give the grid that the network was built for"
        )
    if tuple(source) == tuple(target):
        return positions

    image = positions.transpose(1, 2).unflatten(2, tuple(source))  # (1, D, source...)
    antialias = antialias and len(source) == 2  # which torch has in 2-D only
    image = F.interpolate(image, size=tuple(target), mode=_MODES[len(source)], align_corners=False, antialias=antialias)
    return image.flatten(2).transpose(1, 2)  # (1, N', D)


def keep_grid(network: nn.Module, grid: Sequence[int]) -> None:
    """Keep, in place, the token grid that a network was built for: a ViT does not store its ``img_size``.

    The number of position embeddings does not show the grid: 64 of them may be (4, 4, 4), (8, 4, 2) or (16, 2, 2).
    Copies of the network keep the grid too; its state dict does not change.

    Args:
        network: a ViT, or a network with one.
        grid: patches along each axis, ``img_size / patch_size``.

    Raises:
        ValueError: if the network has another number of position embeddings, or was built for another grid.

    Example:
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, (32, 16, 8), 4, hidden_size=24, mlp_dim=48, num_layers=1, num_heads=4)
        >>> keep_grid(net, (8, 4, 2))
        >>> kept_grid(net)
        (8, 4, 2)
    """
    setattr(encoder_trunk(network).patch_embedding, _GRID, check_grid(network, grid))


def kept_grid(network: nn.Module) -> tuple[int, ...] | None:
    """Return the token grid that a network was built for; None if it keeps none or has no position embeddings."""
    read = parts_of(network).token_grid
    if read is not None:
        return tuple(read(network))
    return getattr(getattr(encoder_trunk(network), "patch_embedding", None), _GRID, None)


def has_positions(encoder: nn.Module) -> bool:
    """Tell whether an encoder embeds patches with positions, as ViTs do and Swin and the CNNs do not."""
    return hasattr(encoder, "patch_embedding")


def is_position_table(name: str) -> bool:
    """Tell whether a tensor holds position embeddings of a grid, for an encoder or a decoder.

    Example:
        >>> is_position_table("vit.patch_embedding.position_embeddings"), is_position_table("norm.weight")
        (True, False)
    """
    return _TABLES.fullmatch(name) is not None


def check_grid(network: nn.Module, grid: Sequence[int]) -> tuple[int, ...]:
    """Return a grid as a tuple; ValueError if the network cannot have been built for it."""
    grid, kept = tuple(grid), kept_grid(network)
    embedding = encoder_trunk(network).patch_embedding
    count, axes = embedding.position_embeddings.shape[1], _axes(embedding)
    sound = len(grid) == axes and min(grid, default=0) > 0 and math.prod(grid) == count
    if not sound or (kept is not None and kept != grid):
        built = f"{count} position embeddings" if kept is None else f"position embeddings for the grid {kept}"
        raise ValueError(
            f"expected the token grid of this {type(network).__name__}, which has {built}, got {grid}; "
            f"give img_size / patch_size of the network"
        )
    return grid


def _axes(embedding: Any) -> int:
    projection = embedding.patch_embeddings
    return projection.weight.dim() - 2 if embedding.proj_type == "conv" else len(projection[0].axes_lengths)


def state_with_grid(network: nn.Module, state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return a state dict whose metadata holds the grid of its position embeddings and the origin of its weights.

    Names, values and ``load_state_dict`` do not change: both are kept beside the version numbers that torch has for
    modules. ``load_weights`` reads them from a file of ``torch.save``.

    Args:
        network: the network of the state dict.
        state: its state dict, or that of its encoder alone.

    Returns:
        A new dictionary of the same tensors.
    """
    stated: OrderedDict[str, Tensor] = OrderedDict(state)
    grid = kept_grid(network)
    tables = (name for name in state if name.endswith(POSITIONS))
    metadata: dict[str, Any] = {name.rpartition(".")[0]: {"version": 1, "grid": list(grid)} for name in tables if grid}
    if states_origin(network):
        metadata[""] = {"version": 1, "origin": kept_origin(network)}
    if metadata:
        stated._metadata = metadata  # type: ignore[attr-defined]
    return stated
