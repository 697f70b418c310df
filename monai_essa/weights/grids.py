# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The patch grids that the position embeddings of a file and of a network were made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn as nn

from monai_essa.networks import encoder_view, kept_grid
from monai_essa.networks.encoder_parts import encoder_trunk
from monai_essa.weights.alignment import Alignment
from monai_essa.weights.diagnosis import named_shapes, spatial_dims
from monai_essa.weights.weight_file import WeightFile

__all__ = ["POSITIONS", "Grids", "find_grids"]

POSITIONS = "patch_embedding.position_embeddings"


@dataclass(frozen=True)
class Grids:
    """Patches per axis that position embeddings were made for; None where nobody knows.

    Attributes:
        source: of the file.
        target: of the network.
        source_dims: spatial dimensions of the file's network.
        target_dims: spatial dimensions of the network.
        prefix_tokens: entries before the grid in the file's table.
    """

    source: tuple[int, ...] | None
    target: tuple[int, ...] | None
    source_dims: int
    target_dims: int
    prefix_tokens: int = 0


def find_grids(
    network: nn.Module, file: WeightFile, alignment: Alignment, given: tuple[Sequence[int] | None, Sequence[int] | None]
) -> Grids | None:
    """Collect what is known of the grids: most files state none, and of the networks a ViT keeps none.

    Args:
        network: the network to load into.
        file: the weight file.
        alignment: of the file and the network.
        given: source and target grid, or None, as the caller gave them.

    Returns:
        The grids; None for a network without position embeddings.

    Raises:
        ValueError: if the network was built for another target grid.
    """
    if POSITIONS not in alignment.places:
        return None
    view = encoder_view(encoder_trunk(network) if isinstance(network, nn.Sequential) else network)
    source, target = (None if grid is None else tuple(grid) for grid in given)
    kept = kept_grid(network)
    if target is not None and kept is not None and target != kept:
        raise ValueError(f"target_grid {target}: this {type(network).__name__} was built for {kept}; leave it out")
    return Grids(
        source=source or _stated(file, alignment),
        target=target or kept,
        source_dims=spatial_dims(named_shapes(alignment.keys, file.tensors)) or view.spatial_dims,
        target_dims=view.spatial_dims,
        prefix_tokens=alignment.key_map.prefix_tokens,
    )


def _stated(file: WeightFile, alignment: Alignment) -> tuple[int, ...] | None:
    key = alignment.keys.get(POSITIONS)
    return None if key is None else file.grids.get(key.rpartition(".")[0])
