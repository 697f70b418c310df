# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""How much of a scan the network sees at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

from monai_essa.data.volume_file import read_volume

__all__ = ["patch_introduction", "patch_line"]

_MOST_SCANS = 20  # each is read whole, so a part of a large datalist must do


def patch_line(img_size: Sequence[int], spacing: Sequence[float], items: Sequence[Mapping[str, Any]]) -> str:
    """Say how large a patch is in mm and which share of the median scan it holds.

    Args:
        img_size: voxels of a patch along the axes R, A, S.
        spacing: mm of a voxel.
        items: of a datalist, with an ``image`` each.

    Returns:
        One line.
    """
    patch = np.multiply(img_size, spacing)
    chosen = items[:: -(-len(items) // _MOST_SCANS)]
    scan = np.median([_extent(item["image"]) for item in chosen], axis=0)[: len(patch)]
    share = float(np.prod(np.minimum(patch, scan) / scan))
    count = f"{len(chosen)} scan{'' if len(chosen) == 1 else 's'}"
    return f"{_mm(patch)}, holds {share:.0%} of the median scan ({_mm(scan)}; {count} read)"


def patch_introduction(img_size: Sequence[int], spacing: Sequence[float], items: Sequence[Mapping[str, Any]]) -> str:
    """Return the line of :func:`patch_line` with its subject, as a run logs it first.

    Args:
        img_size: voxels of a patch along the axes R, A, S.
        spacing: mm of a voxel.
        items: of a datalist, with an ``image`` each.
    """
    return f"patch: {patch_line(img_size, spacing, items)}"


def _extent(image: str | Sequence[str]) -> np.ndarray:
    """Give the size in mm along R, A, S; orientations are the nearest ones for oblique scans."""
    array, affine = read_volume(image)
    rank = array.ndim - 1
    extent = np.zeros(3)
    extent[io_orientation(affine)[:rank, 0].astype(int)] = np.multiply(array.shape[1:], voxel_sizes(affine)[:rank])
    return extent


def _mm(extent: np.ndarray) -> str:
    return " x ".join(f"{size:.0f}" for size in extent) + " mm"
