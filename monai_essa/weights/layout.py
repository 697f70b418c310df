# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Bring the tensors of a family into the layout of MONAI's encoders: join parts, fold scales, move a position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from monai_essa.anatomy.key_maps import KeyMap
from monai_essa.anatomy.positions import POSITIONS
from monai_essa.anatomy.tensor_names import CLASS_TOKEN
from monai_essa.weights.fit import Grids, equal_sides, precise

__all__ = ["Layout", "fold_scales", "join_parts", "move_class_position", "to_monai_layout"]


@dataclass(frozen=True)
class Layout:
    """Tensors in MONAI's layout, and what was done to get there.

    Attributes:
        tensors: by canonical name.
        absorbed: what became of the tensors that are a part of another one now, by canonical name.
        rearranged: what was done to the tensors that took others or lost rows, by canonical name.
    """

    tensors: dict[str, torch.Tensor]
    absorbed: dict[str, str] = field(default_factory=dict)
    rearranged: dict[str, str] = field(default_factory=dict)


def to_monai_layout(tensors: Mapping[str, torch.Tensor], key_map: KeyMap, grids: Grids | None) -> Layout:
    """Apply every rule of a family that concerns more than one tensor.

    Args:
        tensors: of the file, by canonical name.
        key_map: the family.
        grids: of the position embeddings; None for a network without them.

    Returns:
        The tensors in MONAI's layout; those that no rule concerns are shared.
    """
    joined = join_parts(tensors, key_map)
    scaled = fold_scales(joined.tensors, key_map)
    moved = move_class_position(scaled.tensors, key_map, grids)
    return Layout(
        moved.tensors,
        joined.absorbed | scaled.absorbed | moved.absorbed,
        joined.rearranged | scaled.rearranged | moved.rearranged,
    )


def join_parts(tensors: Mapping[str, torch.Tensor], key_map: KeyMap) -> Layout:
    """Join tensors that the family keeps apart and MONAI in one piece, such as the rows of queries, keys and values.

    Args:
        tensors: by canonical name; the first part has the name of the whole.
        key_map: the family, whose rules name the other parts in their order.

    Returns:
        The layout; parts of which one is missing, or whose shapes differ, stay as they are.

    Example:
        >>> apart = KeyMap("apart", joins=((r"(.*)\\.key", r"\\1.qk"),))
        >>> join_parts({"a.qk": torch.zeros(2, 3), "a.key": torch.ones(2, 3)}, apart).tensors["a.qk"].shape
        torch.Size([4, 3])
    """
    whole, absorbed = dict(tensors), {}
    parts: dict[str, list[str]] = {}
    for name in sorted(tensors, key=key_map.join_order):
        if target := key_map.joins_to(name):
            parts.setdefault(target, []).append(name)
    rearranged = {}
    for target, names in parts.items():
        pieces = [tensors[name] for name in (target, *names) if name in tensors]
        complete = len(pieces) == 1 + len(key_map.joins) and len({piece.shape for piece in pieces}) == 1
        if complete:
            whole[target] = torch.cat(pieces)
            for name in names:
                absorbed[name] = f"joined to {target}"
                del whole[name]
            rearranged[target] = f"joined from {len(pieces)} tensors of the file"
    return Layout(whole, absorbed, rearranged)


def fold_scales(tensors: Mapping[str, torch.Tensor], key_map: KeyMap) -> Layout:
    r"""Fold a LayerScale, which MONAI's blocks do not have, into the rows of the layer before it.

    :math:`\gamma \odot (W x + b) = (\operatorname{diag}(\gamma) W) x + \gamma \odot b`, hence exact (LayerScale:
    Touvron et al., "Going deeper with Image Transformers", arXiv 2103.17239).

    Args:
        tensors: by canonical name.
        key_map: the family, which names the scales and their layers.

    Returns:
        The layout without the folded scales; the scaled tensors are new, the others are shared.

    Example:
        >>> gamma = KeyMap("scaled", folds=((r"blocks\.(\d+)\.ls1\.gamma", r"blocks.\1.attn.out_proj"),))
        >>> tensors = {"blocks.0.attn.out_proj.bias": torch.ones(2), "blocks.0.ls1.gamma": torch.tensor([1.0, 3.0])}
        >>> fold_scales(tensors, gamma).tensors
        {'blocks.0.attn.out_proj.bias': tensor([1., 3.])}
    """
    folded, absorbed = dict(tensors), {}
    for name, scale in tensors.items():
        layer = key_map.folds_into(name)
        parts = [part for part in (f"{layer}.weight", f"{layer}.bias") if layer and part in folded]
        if any(folded[part].shape[:1] != scale.shape for part in parts):
            continue  # not a scale of this layer: it stays, and is reported as a tensor without a place
        for part in parts:
            weight = precise(folded[part])
            folded[part] = weight * precise(scale).to(weight.dtype).view(-1, *[1] * (weight.ndim - 1))
        if parts:
            absorbed[name] = f"multiplied into {layer}"
            del folded[name]
    return Layout(folded, absorbed)


def move_class_position(tensors: Mapping[str, torch.Tensor], key_map: KeyMap, grids: Grids | None) -> Layout:
    """Add the position of the class token to the class token itself: MONAI has no row for it in its positions.

    A ViT adds both before its first block, so the sum is exact. A network without a class token loses both.

    Args:
        tensors: by canonical name.
        key_map: the family; nothing is done for one whose positions have no such row.
        grids: of the position embeddings; nothing is done without them.

    Returns:
        The layout.
    """
    table = tensors.get(POSITIONS)
    if not key_map.class_position or grids is None or table is None or table.ndim != 3:
        return Layout(dict(tensors))
    if not _has_class_row(table.shape[1], grids):
        return Layout(dict(tensors))
    moved = dict(tensors) | {POSITIONS: table[:, 1:]}
    rearranged = {POSITIONS: "without the row of the class token"}
    token = tensors.get(CLASS_TOKEN)
    if token is not None and token.shape == table[:, :1].shape:
        moved[CLASS_TOKEN] = precise(token) + precise(table[:, :1])
        rearranged[CLASS_TOKEN] = "with its position added"
    return Layout(moved, {}, rearranged)


def _has_class_row(count: int, grids: Grids) -> bool:
    if grids.source is not None:
        return count == math.prod(grids.source) + 1
    dims = grids.source_dims
    return equal_sides(count, dims) is None and equal_sides(count - 1, dims) is not None
