# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Fit one tensor of a file to its place: inflate first convolutions, resize patches, interpolate grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_essa.anatomy import encoder_view, interpolate_positions, kept_grid
from monai_essa.anatomy.parts import encoder_trunk
from monai_essa.anatomy.positions import POSITIONS, is_position_table
from monai_essa.anatomy.tensor_names import is_first_convolution, is_patch_embedding, spatial_dims
from monai_essa.outside import Choice
from monai_essa.weights.alignment import Alignment
from monai_essa.weights.file import WeightFile
from monai_essa.weights.report import named_shapes

__all__ = [
    "FirstLayer",
    "Fit",
    "Grids",
    "equal_sides",
    "find_grids",
    "fit",
    "fit_first_convolution",
    "precise",
    "resize_patches",
]


@dataclass(frozen=True)
class FirstLayer:
    """Say how the convolution that reads the image is fitted to other images than those that it was trained on.

    Args:
        inflation: of a 2-D kernel for volumes. ``"average"``: every slice of the 3-D kernel is the 2-D kernel divided
            by the depth. ``"centre"``: the middle slice is the 2-D kernel, the others are zero. Both give a volume that
            does not change along its last axis the tokens of its slice.
        channels: from several input channels to one. ``"mean"``: the mean of their weights. ``"sum"``: their sum, which
            is what a grey image gives when it is copied into every channel.
        patches: ``"equal"``: another patch size is refused. ``"resize"``: the patch embedding of a ViT is resized, see
            :func:`~monai_essa.weights.fit.resize_patches`.

    Raises:
        ValueError: if a value is none of these.

    Example:
        >>> FirstLayer(inflation="middle")
        Traceback (most recent call last):
        ValueError: inflation: expected one of 'average', 'centre'; got 'middle'
    """

    inflation: str = "average"
    channels: str = "mean"
    patches: str = "equal"

    def __post_init__(self) -> None:
        """Check the values."""
        Choice(("average", "centre")).check(self.inflation, "inflation")
        Choice(("mean", "sum")).check(self.channels, "channels")
        Choice(("equal", "resize")).check(self.patches, "patches")


_AS_IT_IS = FirstLayer()


@dataclass(frozen=True)
class Fit:
    """The result for a tensor: ``kind`` is ``"matched"``, ``"inflated"``, ``"interpolated"`` or ``"skipped"``."""

    kind: str
    tensor: torch.Tensor
    reason: str = ""


def fit(name: str, tensor: torch.Tensor, shape: Sequence[int], grids: Grids | None, how: FirstLayer = _AS_IT_IS) -> Fit:
    """Fit a tensor to the shape that the network needs, if there is a rule for it.

    Args:
        name: canonical name of the tensor.
        tensor: from the file.
        shape: of the tensor in the network.
        grids: of the position embeddings; None for a network without them.
        how: the convolution that reads the image is fitted.

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
    if not is_first_convolution(name):
        return _skipped(tensor, shape)
    patches = is_patch_embedding(name) and _other_kernel(tensor, shape)
    fitted = fit_first_convolution(tensor, shape, how if is_patch_embedding(name) else replace(how, patches="equal"))
    if fitted is None and patches and how.patches == "equal":
        reason = f"{_skipped(tensor, shape).reason}; first_layer=FirstLayer(patches='resize') resizes it"
        return Fit("skipped", tensor, reason)
    return _skipped(tensor, shape) if fitted is None else Fit("inflated", *fitted)


def fit_first_convolution(
    weight: torch.Tensor, shape: Sequence[int], how: FirstLayer = _AS_IT_IS
) -> tuple[torch.Tensor, str] | None:
    r"""Change the input channels of a convolution weight, and add depth to a 2-D one, by explicit rules only.

    Channels: C -> 1 takes the mean over the source channels, or their sum; 1 -> C repeats the channel and divides by C,
    so that C copies of an image have the output of the image. There is no rule for other changes, and nothing is
    broadcast. Depth: :math:`W_3[..., d] = W_2 / P` for the P depth positions of the kernel, so that a volume that does
    not change along its last axis (the axis of axial slices in RAS) has the tokens of its slice (averaging inflation:
    Zhang et al., "Adapting Pre-trained Vision Transformers from 2D to 3D through Weight Inflation Improves Medical
    Image Segmentation", arXiv 2302.04303); or the middle slice alone, which has the same property.

    Args:
        weight: (D, C, kernel...) from the file.
        shape: (D, C', kernel...) in the network.
        how: the choices among the rules.

    Returns:
        The fitted weight and a description of the change; None if no rule leads from one shape to the other.

    Example:
        >>> weight, how = fit_first_convolution(torch.ones(8, 3, 4, 4), (8, 1, 4, 4, 4))
        >>> weight.shape, how
        (torch.Size([8, 1, 4, 4, 4]), '3 input channels -> 1 by their mean; depth 4, each slice divided by 4')
    """
    if weight.ndim not in (len(shape), len(shape) - 1) or weight.ndim < 3:
        return None
    fitted, steps = _other_channels(precise(weight), shape[1], how)
    if how.patches == "resize" and _other_kernel(weight, shape):
        kernel = tuple(shape[2 : weight.ndim])
        steps.append(f"patches {tuple(weight.shape[2:])} -> {kernel} by pseudo-inverse resize")
        fitted = resize_patches(fitted, kernel)
    if fitted.ndim + 1 == len(shape):
        fitted, step = _inflated(fitted, shape[-1], how)
        steps.append(step)
    return (fitted, "; ".join(steps)) if steps and fitted.shape == torch.Size(shape) else None


def resize_patches(weight: torch.Tensor, kernel: Sequence[int]) -> torch.Tensor:
    r"""Resize a patch embedding so that resized patches keep their tokens as far as a linear map can keep them.

    With the matrix B of linear interpolation along each axis, :math:`\hat w = (B^T)^+ w` (FlexiViT: Beyer et al., arXiv
    2212.08013, section 3.4). To larger patches the tokens are exactly equal, :math:`\langle Bx, \hat w \rangle =
    \langle x, w \rangle`; to smaller patches this is the solution of least squares.

    Args:
        weight: (D, C, kernel...).
        kernel: the new size along each axis.

    Returns:
        The weight (D, C, kernel...) of the new size, in the precision of the old.

    Example:
        >>> resize_patches(torch.ones(8, 3, 14, 14), (16, 16)).shape
        torch.Size([8, 3, 16, 16])
    """
    fitted = weight.double()
    for axis, size in enumerate(kernel, start=2):
        old = fitted.shape[axis]
        units = torch.eye(old, dtype=torch.float64).unsqueeze(1)  # (old, 1, old)
        resize = F.interpolate(units, size=size, mode="linear", align_corners=False)[:, 0].T  # (size, old)
        inverse = torch.linalg.pinv(resize.T)  # (size, old)
        fitted = (fitted.movedim(axis, -1) @ inverse.T).movedim(-1, axis)
    return fitted.to(weight.dtype)


def precise(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in single precision at least: a product in half precision would lose digits of the file."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def equal_sides(tokens: int, spatial_dims: int) -> tuple[int, ...] | None:
    """Return the grid of equal sides that has this many tokens, or None if there is none.

    Example:
        >>> equal_sides(196, 2), equal_sides(197, 2)
        ((14, 14), None)
    """
    side = round(tokens ** (1 / spatial_dims))
    return (side,) * spatial_dims if side**spatial_dims == tokens else None


def _other_kernel(weight: torch.Tensor, shape: Sequence[int]) -> bool:
    return tuple(weight.shape[2:]) != tuple(shape[2 : weight.ndim])


def _other_channels(weight: torch.Tensor, target: int, how: FirstLayer) -> tuple[torch.Tensor, list[str]]:
    source = weight.shape[1]
    if target == 1 < source:
        fitted = weight.sum(dim=1, keepdim=True)
        said = f"{source} input channels -> 1 by their {how.channels}"
        return (fitted if how.channels == "sum" else fitted / source), [said]
    if source == 1 < target:
        fitted = weight.repeat_interleave(target, dim=1) / target
        return fitted, [f"1 input channel -> {target}, repeated and divided by {target}"]
    return weight, []


def _inflated(weight: torch.Tensor, depth: int, how: FirstLayer) -> tuple[torch.Tensor, str]:
    flat = weight.unsqueeze(-1)
    if how.inflation == "average":
        return flat.repeat_interleave(depth, dim=-1) / depth, f"depth {depth}, each slice divided by {depth}"
    fitted = torch.zeros(*weight.shape, depth, dtype=weight.dtype)
    fitted[..., depth // 2] = weight
    return fitted, f"depth {depth}, slice {depth // 2} alone"


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
    fitted = interpolate_positions(precise(table), (*source, *flat), target)
    return Fit("interpolated", fitted, f"grid {source}{'' if grids.source else ' (assumed)'} -> {target}")


def _check_counts(grids: Grids, counts: tuple[int, int]) -> None:
    for side, grid, count in zip(("source", "target"), (grids.source, grids.target), counts, strict=True):
        if grid and math.prod(grid) != count:
            raise ValueError(
                f"{side}_grid {grid} has {math.prod(grid)} patches, expected {count}; give img_size / patch_size"
            )


def _only_reading(grids: Grids, counts: tuple[int, int], same_count: bool) -> tuple[int, ...] | None:
    """Return equal sides if they are the only plausible grid of a file; None if the network has another grid."""
    sides = equal_sides(counts[0], grids.source_dims)
    return sides if not same_count or grids.target in (None, sides) else None


def _which_grid(grids: Grids, count: int) -> str:
    readings = [grid for grid in (equal_sides(count, grids.source_dims), grids.target) if grid]
    likely = f", such as {' or '.join(map(str, readings))}" if readings else ""
    return (
        f"the file does not say for which grid its {count} positions are{likely}; give source_grid, in a bundle "
        "pretrained_img_size"
    )


def _skipped(tensor: torch.Tensor, shape: Sequence[int]) -> Fit:
    return Fit("skipped", tensor, f"shape {tuple(tensor.shape)} in the file, {tuple(shape)} in the network")


def _stated(file: WeightFile, alignment: Alignment) -> tuple[int, ...] | None:
    key = alignment.keys.get(POSITIONS)
    return None if key is None else file.grids.get(key.rpartition(".")[0])
