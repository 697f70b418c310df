# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What every reader returns and refuses: a volume of plain voxels with their place in the body, and faults of files.

A file from outside may hang its reader, lie about its size or break a parser; the checks turn this into one line.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

from monai_essa.outside import printable

__all__ = [
    "DEFLATED",
    "PLAIN",
    "SAME_GRID",
    "FileFault",
    "Volume",
    "check_declared_size",
    "check_regular_file",
    "corner_shift",
    "in_ras_order",
    "make_volume",
    "named_faults",
    "ras_size",
    "stack_channels",
]

SAME_GRID = 0.1  # voxels that corners may lie apart; header rounding is a hundred times less
_SPACINGS = (1e-7, 1e5)  # mm: a tenth of a nanometre, and a hundred metres
_FLAT = 1e-6  # volume of the unit cell over the product of its sides, below which its axes lie in one plane
PLAIN = 1.0
"""Bytes of voxels that a byte of an uncompressed file can hold."""
DEFLATED = 1100.0
"""The same for a gzip or zlib file: deflate packs a run of zeros 1032 to 1, and nothing tighter."""
_MOST_VOXELS = 2**32  # 1625 voxels a side; a whole-body CT has a fifth of that


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and their geometry.

    Attributes:
        array: (x, y) or (x, y, z), with channels at the end or, of several files, at the beginning.
        affine: (4, 4), voxel to RAS millimetres.
        channel: the axis of the channels, 0 or -1; ``None`` without channels.
        notes: what the reader converted or had to guess, each one sentence without the file's name.
    """

    array: np.ndarray
    affine: np.ndarray
    channel: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """The size in voxels, without the channels."""
        shape = self.array.shape
        return shape if self.channel is None else shape[1:] if self.channel == 0 else shape[:-1]


def make_volume(
    path: str, array: np.ndarray, affine: np.ndarray, coloured: bool = False, notes: Sequence[str] = ()
) -> Volume:
    """Check what a file held and bring the voxels into a form that NumPy and torch share.

    Args:
        path: the file, for the error line.
        array: (x, y) or (x, y, z), then channels; more axes of length 1 at the end are left out.
        affine: (4, 4), voxel to RAS millimetres.
        coloured: whether the last axis holds channels even if the array has three axes, as in a colour picture.
        notes: what the reader converted.

    Returns:
        The volume: booleans as 0 and 1, numbers in the machine's byte order.

    Raises:
        FileFault: if there are no voxels, more than four axes, voxels that are not real numbers, or an affine that is
            infinite, NaN or singular.
    """
    while array.ndim > 4 and array.shape[-1] == 1 and not coloured:
        array = array[..., 0]
    _check_shape(path, array.shape, coloured)
    array = _plain_numbers(path, array)
    channel = -1 if coloured or array.ndim == 4 else None
    spatial = array.shape[:-1] if channel == -1 else array.shape
    affine, guessed = _with_thickness(np.asarray(affine, dtype=np.float64), spatial)
    _check_affine(path, affine)
    return Volume(array, affine, channel, (*notes, *guessed))


def stack_channels(volumes: Sequence[Volume], paths: Sequence[str]) -> Volume:
    """Join the volumes of several files as the channels of one image, channels first.

    Args:
        volumes: one for each path; a single one is returned as it is.
        paths: the files, for the error line.

    Returns:
        The volume, with the notes of all.

    Raises:
        FileFault: if the volumes differ in shape or geometry, or have channels already.
    """
    first = volumes[0]
    if len(volumes) == 1:
        return first
    for path, other in zip(paths, volumes, strict=True):
        if other.channel is not None:
            msg = f"{path}: expected one channel in each of {len(paths)} files, got {other.array.shape[-1]}"
            raise FileFault(f"{msg}; give a single file, or split it")
        shift = corner_shift(first.array.shape, first.affine, other.affine)
        if other.array.shape != first.array.shape or shift > SAME_GRID:
            msg = (
                f"{path}: expected shape and position of its first channel {paths[0]} {first.array.shape}, "
                f"got {other.array.shape}, {shift:.1f} voxels off; resample the channels to one grid"
            )
            raise FileFault(msg)
    notes = tuple(dict.fromkeys(note for volume in volumes for note in volume.notes))
    return Volume(np.stack([volume.array for volume in volumes]), first.affine, 0, notes)


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


def in_ras_order(affine: np.ndarray, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Bring values along the axes of an array into the order right, anterior, superior.

    Args:
        affine: (4, 4), voxel to RAS millimetres. An oblique axis counts as the nearest one of the body.
        values: one for each spatial axis of the array, two or three.

    Returns:
        Three values; 0 along an axis of the body that a 2-D image lacks.

    Example:
        >>> in_ras_order(np.eye(4)[[2, 0, 1, 3]], [5.0, 6.0, 7.0])
        array([7., 5., 6.])
    """
    ordered = np.zeros(3)
    ordered[io_orientation(affine)[: len(values), 0].astype(int)] = values
    return ordered


def ras_size(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Compute the size of a volume in mm along the axes right, anterior, superior.

    Args:
        affine: as for :func:`in_ras_order`.
        shape: the spatial shape in voxels.

    Returns:
        As :func:`in_ras_order`.
    """
    return in_ras_order(affine, np.multiply(shape, voxel_sizes(affine)[: len(shape)]))


class FileFault(ValueError):
    """A file that cannot be read as one volume; the message is one printable line that names it.

    Args:
        message: the line. Line breaks and terminal codes, which the name of a file may hold, are replaced by escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def check_regular_file(path: str | Path) -> None:
    """Refuse anything but a regular file: a FIFO or a device would keep its reader waiting for ever.

    Args:
        path: of the file; a link counts as what it leads to.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        FileFault: if it is a folder, a FIFO, a socket or a device, or cannot be looked up.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{printable(str(path))}: no such file; correct the path in the datalist") from error
    except (OSError, ValueError) as error:
        raise FileFault(f"{path}: not a path of a file ({_reason(error)}); correct the path in the datalist") from error
    if not stat.S_ISREG(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "a FIFO, a socket or a device"
        raise FileFault(f"{path}: expected a regular file, got {found}; correct the path in the datalist")


def check_declared_size(path: str | Path, shape: Sequence[int], voxel_bytes: int, held: int, growth: float) -> None:
    """Refuse a header that declares more voxels than its file can hold, before memory is taken for them.

    Args:
        path: of the file, for the error line.
        shape: as declared, channels included.
        voxel_bytes: size of a voxel.
        held: bytes on disk.
        growth: :data:`PLAIN` or :data:`DEFLATED`.

    Raises:
        FileFault: if the voxels cannot be in the file, or are more than any scan has.
    """
    voxels = math.prod(int(length) for length in shape)
    if voxels > _MOST_VOXELS or voxels * voxel_bytes > held * growth:
        size = " x ".join(str(int(length)) for length in shape)
        raise FileFault(
            f"{path}: the header declares {size} voxels, more than {held} bytes can hold; copy the file again"
        )


@contextmanager
def named_faults(path: str | Path, kind: str) -> Iterator[None]:
    """Turn any error of a parser into one line that names the file.

    Args:
        path: of the file.
        kind: what the file should be, such as "a picture".

    Raises:
        FileFault: instead of any other error; a :class:`FileFault` is passed on as it is.
    """
    try:
        yield
    except FileFault:
        raise
    except Exception as error:
        msg = f"{path}: not {kind}, or a damaged one ({_reason(error)}); copy the file again"
        raise FileFault(msg) from error


def _check_shape(path: str, shape: tuple[int, ...], coloured: bool) -> None:
    if len(shape) > 4:
        msg = f"{path}: expected at most 3 spatial dimensions and 1 for channels, got {len(shape)}-D {shape}"
        raise FileFault(f"{msg}; vector fields and series of them are not images: leave the file out")
    if len(shape) - coloured < 2 or 0 in shape:
        raise FileFault(f"{path}: expected voxels in 2 or 3 dimensions, got the shape {shape}; leave the file out")


def _plain_numbers(path: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        msg = f"{path}: expected real numbers, got voxels of type {array.dtype}"
        raise FileFault(f"{msg}; save the magnitude or one component as a file of its own")
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.itemsize > 8:  # an extended float, which torch lacks
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _with_thickness(affine: np.ndarray, spatial: Sequence[int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Make the slice of an image that has one slice 1 mm thick where the file does not say how thick it is."""
    one_slice = len(spatial) == 2 or spatial[2] == 1
    if not one_slice or affine[:3, 2].any():
        return affine, ()
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    length = np.linalg.norm(normal)
    if not 0 < length < np.inf:
        return affine, ()
    affine = affine.copy()
    affine[:3, 2] = normal / length
    return affine, ("the slice has no thickness: 1 mm is taken",)


def _check_affine(path: str, affine: np.ndarray) -> None:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all():
        problem = "numbers that are NaN or infinite"
    elif not ((spacing > _SPACINGS[0]) & (spacing < _SPACINGS[1])).all():
        problem = f"a spacing of {' x '.join(f'{length:.4g}' for length in spacing)} mm"
    elif abs(np.linalg.det(affine[:3, :3] / spacing)) < _FLAT:
        problem = "axes that lie in one plane (a singular affine)"
    else:
        return
    raise FileFault(f"{path}: expected an affine that places the voxels, got {problem}; repair the header")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
