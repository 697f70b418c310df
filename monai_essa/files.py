# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Files that appear whole or not at all, written under a name that nobody else has."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_whole"]


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
