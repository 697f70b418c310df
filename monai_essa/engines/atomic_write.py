# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Write files so that a reader, or a run after a power cut, sees the old file or the whole new one."""

from __future__ import annotations

import os
from pathlib import Path

from monai_essa.files import written_whole

__all__ = ["sync_and_rename", "write_text_atomically"]


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
