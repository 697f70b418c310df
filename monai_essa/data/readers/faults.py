# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Guard readers against files from outside that would hang them, lie about their size or break them."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from monai_essa.outside import printable

__all__ = ["DEFLATED", "PLAIN", "FileFault", "check_declared_size", "check_regular_file", "named_faults"]

PLAIN = 1.0
"""Bytes of voxels that a byte of an uncompressed file can hold."""
DEFLATED = 1100.0
"""The same for a gzip or zlib file: deflate packs a run of zeros 1032 to 1, and nothing tighter."""

_MOST_VOXELS = 2**32  # 1625 voxels a side; a whole-body CT has a fifth of that


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


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
