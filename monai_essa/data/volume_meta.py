# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The metadata that our readers attach to a volume: its geometry and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.utils import MetaKeys, SpaceKeys

__all__ = ["SAME_GRID", "corner_shift", "stack_channels", "volume_meta"]

SAME_GRID = 0.1  # voxels that corners may lie apart; header rounding is a hundred times less


def volume_meta(path: str, shape: Sequence[int], affine: np.ndarray) -> dict[str, Any]:
    """Make the metadata of a channel-last array, the same keys for every format, so that any files share a batch.

    Args:
        path: the file, for the error line.
        shape: (x, y), (x, y, z) or (x, y, z, channel).
        affine: (4, 4), voxel to RAS millimetres.

    Returns:
        affine, original_affine, spatial_shape, original_channel_dim and space, as MONAI's readers name them.

    Raises:
        ValueError: if the array has more than four dimensions.
    """
    if len(shape) > 4:
        msg = (
            f"{path}: expected at most 3 spatial dimensions and 1 for channels, got {len(shape)}-D {tuple(shape)}; "
            "vector fields and series of them are not images: leave the file out"
        )
        raise ValueError(msg)
    spatial = min(len(shape), 3)
    return {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.array(shape[:spatial]),
        MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if len(shape) <= 3 else -1,
        MetaKeys.SPACE: SpaceKeys.RAS,
    }


def stack_channels(
    volumes: Sequence[tuple[np.ndarray, dict[str, Any]]], paths: Sequence[str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Join the volumes of several files as the channels of one image, channels first.

    Args:
        volumes: an array and its :func:`volume_meta` for each path; a single one is returned as it is.
        paths: the files, for the error line.

    Returns:
        The array and its metadata.

    Raises:
        ValueError: if the volumes differ in shape or geometry.
    """
    array, meta = volumes[0]
    if len(volumes) == 1:
        return array, meta
    for path, (other, other_meta) in zip(paths[1:], volumes[1:], strict=True):
        shift = corner_shift(array.shape[:3], meta[MetaKeys.AFFINE], other_meta[MetaKeys.AFFINE])
        if other.shape != array.shape or shift > SAME_GRID:
            msg = (
                f"{path}: expected shape and position of its first channel {paths[0]} {array.shape}, "
                f"got {other.shape}, {shift:.1f} voxels off; resample the channels to one grid"
            )
            raise ValueError(msg)
    return np.stack([array for array, _ in volumes]), meta | {MetaKeys.ORIGINAL_CHANNEL_DIM: 0}


def corner_shift(shape: Sequence[int], affine: np.ndarray, other: np.ndarray) -> float:
    """Measure how far apart two affines put the corners of a volume.

    Args:
        shape: the spatial shape, up to three numbers.
        affine: (4, 4), voxel to millimetres.
        other: (4, 4), voxel to millimetres.

    Returns:
        The largest distance between the two places of a corner, in voxels along the first affine's smallest spacing.

    Example:
        >>> moved = np.eye(4)
        >>> moved[0, 3] = 2.0
        >>> corner_shift((8, 8, 8), np.eye(4), moved)
        2.0
    """
    size = np.ones(3)
    size[: len(shape)] = shape
    corners = np.stack(np.meshgrid(*[(0, length - 1) for length in size], [1], indexing="ij"), -1).reshape(-1, 4)
    distances = np.linalg.norm((corners @ (np.asarray(affine) - np.asarray(other)).T)[:, :3], axis=1)
    return float(distances.max() / np.linalg.norm(np.asarray(affine)[:3, :3], axis=0).min())
