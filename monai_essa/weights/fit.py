# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Fit one tensor of a file to its place: inflate first convolutions, interpolate grids, fold scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn

from monai_essa.anatomy import encoder_view, interpolate_positions, kept_grid
from monai_essa.anatomy.key_maps import KeyMap
from monai_essa.anatomy.parts import encoder_trunk
from monai_essa.anatomy.positions import POSITIONS, is_position_table
from monai_essa.anatomy.tensor_names import is_first_convolution, spatial_dims
from monai_essa.weights.alignment import Alignment
from monai_essa.weights.file import WeightFile
from monai_essa.weights.report import named_shapes

__all__ = ["Fit", "Grids", "find_grids", "fit", "fit_first_convolution", "fold_scales"]


@dataclass(frozen=True)
class Fit:
    """The result for a tensor: ``kind`` is ``"matched"``, ``"inflated"``, ``"interpolated"`` or ``"skipped"``."""

    kind: str
    tensor: torch.Tensor
    reason: str = ""


def fit(name: str, tensor: torch.Tensor, shape: Sequence[int], grids: Grids | None) -> Fit:
    """Fit a tensor to the shape that the network needs, if there is a rule for it.

    Args:
        name: canonical name of the tensor.
        tensor: from the file.
        shape: of the tensor in the network.
        grids: of the position embeddings; None for a network without them.

    Returns:
        The fitted tensor, or the unchanged tensor with ``kind="skipped"`` and the reason.

    Example:
        >>> fit("norm.weight", torch.ones(24), (48,), None).reason
        'shape (24,) in the file, (48,) in the network'
    """
    if grids is not None and is_position_table(name):
        return _fit_positions(tensor, shape, grids)
    if tensor.shape == torch.Size(shape):
        return Fit("matched", tensor)
    fitted = fit_first_convolution(tensor, shape) if is_first_convolution(name) else None
    return _skipped(tensor, shape) if fitted is None else Fit("inflated", *fitted)


def fit_first_convolution(weight: torch.Tensor, shape: Sequence[int]) -> tuple[torch.Tensor, str] | None:
    r"""Change the input channels of a convolution weight, and add depth to a 2-D one, by explicit rules only.

    Channels: C -> 1 takes the mean over the source channels; 1 -> C repeats the channel and divides by C, so that C
    copies of an image have the output of the image. There is no rule for other changes, and nothing is broadcast.
    Depth: :math:`W_3[..., d] = W_2 / P` for the P depth positions of the kernel, so that a volume that does not
    change along its last axis (the axis of axial slices in RAS) has the tokens of its slice (averaging inflation:
    Zhang et al., "Adapting Pre-trained Vision Transformers from 2D to 3D through Weight Inflation Improves Medical
    Image Segmentation", arXiv 2302.04303).

    Args:
        weight: (D, C, kernel...) from the file.
        shape: (D, C', kernel...) in the network.

    Returns:
        The fitted weight and a description of the change; None if no rule leads from one shape to the other.

    Example:
        >>> weight, how = fit_first_convolution(torch.ones(8, 3, 4, 4), (8, 1, 4, 4, 4))
        >>> weight.shape, how
        (torch.Size([8, 1, 4, 4, 4]), '3 input channels -> 1 by their mean; depth 4, each slice divided by 4')
    """
    if weight.ndim not in (len(shape), len(shape) - 1):
        return None
    steps = []
    fitted = weight.float()
    source, target = weight.shape[1], shape[1]
    if target == 1 < source:
        fitted = fitted.mean(dim=1, keepdim=True)
        steps.append(f"{source} input channels -> 1 by their mean")
    elif source == 1 < target:
        fitted = fitted.repeat_interleave(target, dim=1) / target
        steps.append(f"1 input channel -> {target}, repeated and divided by {target}")
    if fitted.ndim + 1 == len(shape):
        depth = shape[-1]
        fitted = fitted.unsqueeze(-1).repeat_interleave(depth, dim=-1) / depth
        steps.append(f"depth {depth}, each slice divided by {depth}")
    return (fitted, "; ".join(steps)) if steps and fitted.shape == torch.Size(shape) else None


def fold_scales(tensors: Mapping[str, torch.Tensor], key_map: KeyMap) -> dict[str, torch.Tensor]:
    r"""Fold a LayerScale, which MONAI's blocks do not have, into the rows of the layer before it.

    :math:`\gamma \odot (W x + b) = (\operatorname{diag}(\gamma) W) x + \gamma \odot b`, hence exact (LayerScale:
    Touvron et al., "Going deeper with Image Transformers", arXiv 2103.17239).

    Args:
        tensors: by canonical name.
        key_map: the family, which names the scales and their layers.

    Returns:
        A new dictionary without the folded scales; the scaled tensors are new, the others are shared.

    Example:
        >>> gamma = KeyMap("scaled", folds=((r"blocks\.(\d+)\.ls1\.gamma", r"blocks.\1.attn.out_proj"),))
        >>> tensors = {"blocks.0.attn.out_proj.bias": torch.ones(2), "blocks.0.ls1.gamma": torch.tensor([1.0, 3.0])}
        >>> fold_scales(tensors, gamma)
        {'blocks.0.attn.out_proj.bias': tensor([1., 3.])}
    """
    folded = dict(tensors)
    for name, scale in tensors.items():
        layer = key_map.folds_into(name)
        parts = [part for part in (f"{layer}.weight", f"{layer}.bias") if layer and part in folded]
        if any(folded[part].shape[:1] != scale.shape for part in parts):
            continue  # not a scale of this layer: it stays, and is reported as a tensor without a place
        for part in parts:
            # In single precision at least: a product in half precision would lose digits of the file.
            precise = torch.promote_types(folded[part].dtype, torch.float32)
            folded[part] = folded[part].to(precise) * scale.to(precise).view(-1, *[1] * (folded[part].ndim - 1))
        if parts:
            del folded[name]
    return folded


@dataclass(frozen=True)
class Grids:
    """Patches per axis that position embeddings were made for; None if unknown.

    Attributes:
        source: of the file.
        target: of the network.
        source_dims: spatial dimensions of the file's network.
        target_dims: spatial dimensions of the network.
    """

    source: tuple[int, ...] | None
    target: tuple[int, ...] | None
    source_dims: int
    target_dims: int


def find_grids(
    network: nn.Module, file: WeightFile, alignment: Alignment, given: tuple[Sequence[int] | None, Sequence[int] | None]
) -> Grids | None:
    """Collect what is known of the grids: most files do not state theirs, and a ViT does not keep its own.

    Args:
        network: the network to load into.
        file: the weight file.
        alignment: of the file and the network.
        given: source and target grid from the caller, or None.

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
    )


def _fit_positions(table: torch.Tensor, shape: Sequence[int], grids: Grids) -> Fit:
    if table.ndim != 3 or (*table.shape[:1], *table.shape[2:]) != (*shape[:1], *shape[2:]):
        return _skipped(table, shape)
    counts = table.shape[1], shape[1]
    _check_counts(grids, counts)
    same_count = counts[0] == counts[1] and grids.source_dims == grids.target_dims
    source = grids.source or _only_reading(grids, counts, same_count)
    if source is None:
        return Fit("skipped", table, _which_grid(grids, counts[0]))
    target = grids.target or (source if same_count else None)
    if target is None:
        return Fit(
            "skipped", table, f"nobody knows for which grid the network's {counts[1]} positions are; give target_grid"
        )
    if len(source) > len(target):
        return _skipped(table, shape)
    if source == target:
        return Fit("matched", table)
    flat = (1,) * (len(target) - len(source))  # a 2-D grid is one layer of a volume
    fitted = interpolate_positions(table.float(), (*source, *flat), target)
    return Fit("interpolated", fitted, f"grid {source}{'' if grids.source else ' (assumed)'} -> {target}")


def _check_counts(grids: Grids, counts: tuple[int, int]) -> None:
    for side, grid, count in zip(("source", "target"), (grids.source, grids.target), counts, strict=True):
        if grid and math.prod(grid) != count:
            raise ValueError(
                f"{side}_grid {grid} has {math.prod(grid)} patches, expected {count}; give img_size / patch_size"
            )


def _only_reading(grids: Grids, counts: tuple[int, int], same_count: bool) -> tuple[int, ...] | None:
    """Return equal sides if they are the only plausible grid of a file; None if the network has another grid."""
    sides = _equal_sides(counts[0], grids.source_dims)
    return sides if not same_count or grids.target in (None, sides) else None


def _which_grid(grids: Grids, count: int) -> str:
    readings = [grid for grid in (_equal_sides(count, grids.source_dims), grids.target) if grid]
    likely = f", such as {' or '.join(map(str, readings))}" if readings else ""
    return (
        f"the file does not say for which grid its {count} positions are{likely}; give source_grid, in a bundle "
        "pretrained_img_size"
    )


def _equal_sides(tokens: int, spatial_dims: int) -> tuple[int, ...] | None:
    side = round(tokens ** (1 / spatial_dims))
    return (side,) * spatial_dims if side**spatial_dims == tokens else None


def _skipped(tensor: torch.Tensor, shape: Sequence[int]) -> Fit:
    return Fit("skipped", tensor, f"shape {tuple(tensor.shape)} in the file, {tuple(shape)} in the network")


def _stated(file: WeightFile, alignment: Alignment) -> tuple[int, ...] | None:
    key = alignment.keys.get(POSITIONS)
    return None if key is None else file.grids.get(key.rpartition(".")[0])
