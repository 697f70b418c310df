# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Files that appear whole or not at all, written under a name that nobody else has."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["sync_and_rename", "write_text_atomically", "written_whole"]


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name beside it, which it keeps until its bytes are on the disk.

    A reader, or a run after a power cut, sees the old file or the whole new one. The temporary file is made for this
    purpose alone, so that it is none that was there; it is removed if the block fails.

    Args:
        path: the final name; a file of that name is replaced.

    Yields:
        The temporary file, empty and closed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.json"
        >>> with written_whole(path) as temporary:
        ...     _ = temporary.write_text("{}")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('{}', 1)
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.part")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_and_rename(temporary: Path, path: Path) -> None:
    """Put a finished temporary file in its place, its bytes on the disk first.

    Args:
        temporary: a closed file in the folder of ``path``.
        path: its final name; a file of that name is replaced.
    """
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name, sync it and rename it.

    Args:
        path: its final name; a file of that name is replaced.
        text: the whole content, written as UTF-8.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.json"
        >>> write_text_atomically(path, "{}")
        >>> path.read_text()
        '{}'
    """
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
