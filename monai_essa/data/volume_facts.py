# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What one reading of a volume tells: geometry, intensities, label values and a fingerprint of the content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_essa.data.volume_file import channels_first, open_volumes

__all__ = ["VolumeFacts", "volume_facts"]

_MOST_VALUES = 256  # a label map with more distinct values is an image


@dataclass(frozen=True, eq=False)
class VolumeFacts:
    """One volume, without its voxels.

    Attributes:
        file: the path, or the first of several.
        channels: number of channels.
        shape: spatial shape in voxels.
        spacing: in mm along the array's axes.
        orientation: axis codes such as ``RAS``, the direction in which each axis points.
        affine: (4, 4), voxel to RAS millimetres.
        broken: number of voxels that are NaN or infinite.
        minimum: of the finite voxels.
        maximum: of the finite voxels.
        low: 0.5th percentile of the finite voxels.
        high: 99.5th percentile of the finite voxels.
        values: the distinct values where there are at most 256, for a label; else empty.
        digest: equal for equal voxels, whatever the file's name, header and compression.
        notes: what the reader converted or had to guess, such as a unit or an orientation; one sentence each.
    """

    file: str
    channels: int
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    affine: np.ndarray
    broken: int
    minimum: float
    maximum: float
    low: float
    high: float
    values: tuple[float, ...]
    digest: str
    notes: tuple[str, ...] = ()


def volume_facts(path: str | Path | Sequence[str], count_values: bool = False) -> VolumeFacts:
    """Read a volume once and describe it.

    Args:
        path: a file, a DICOM folder, or one path for each channel.
        count_values: list the distinct values; for labels, which are opened as such.

    Returns:
        The facts.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a file cannot be read as one volume, or is empty.
    """
    name = str(path) if isinstance(path, str | Path) else str(path[0])
    volume = open_volumes(path, label=count_values)
    array, affine = channels_first(volume), volume.affine
    finite = array if array.dtype.kind in "iub" else array[np.isfinite(array)]
    voxels = finite if finite.size else np.zeros(1)
    values = np.unique(voxels) if count_values else np.empty(0)
    low, high = np.percentile(voxels, [0.5, 99.5])
    rank = array.ndim - 1
    return VolumeFacts(
        file=name,
        channels=array.shape[0],
        shape=tuple(array.shape[1:]),
        spacing=tuple(float(size) for size in nib.affines.voxel_sizes(affine)[:rank].round(4)),
        orientation="".join(str(code) for code in nib.aff2axcodes(affine)[:rank]),
        affine=affine,
        broken=array.size - finite.size,
        minimum=float(voxels.min()),
        maximum=float(voxels.max()),
        low=float(low),
        high=float(high),
        values=tuple(values.tolist()) if values.size <= _MOST_VALUES else (),
        digest=_digest(array),
        notes=volume.notes,
    )


def _digest(array: np.ndarray) -> str:
    digest = hashlib.blake2b(f"{array.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array.T, dtype=np.float32).tobytes())
    return digest.hexdigest()
