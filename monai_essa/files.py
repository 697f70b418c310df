# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Files and folders that appear whole or not at all, and digests of content: the only place that makes either."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "file_sha256",
    "folder_written_whole",
    "json_sha256",
    "sha256",
    "short_digest",
    "unfinished",
    "write_text_whole",
    "written_whole",
]

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.part")


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name beside it, which it keeps until its bytes are on the disk.

    A reader, or a run after a power cut, sees the old file or the whole new one. The temporary file is new, so nothing
    of the user's is overwritten; it is removed if the block fails.

    Args:
        path: the final name; a file of that name is replaced.

    Yields:
        The temporary file, empty and closed.

    Example:
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


def write_text_whole(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file as :func:`written_whole` does.

    Args:
        path: the final name; a file of that name is replaced.
        text: the whole content.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "run.json"
        >>> write_text_whole(path, "{}")
        >>> path.read_text()
        '{}'
    """
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def unfinished(folder: Path, name: str) -> list[Path]:
    """List the temporary files of :func:`written_whole`: of killed processes, and of those that still write.

    Args:
        folder: where they are.
        name: pattern of the final names, as for ``Path.glob``.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with written_whole(folder / "model.pt") as temporary:
        ...     unfinished(folder, "*.pt") == [temporary]
        True
    """
    return [file for file in folder.glob(f".{name}.*.part") if _TEMPORARY.fullmatch(file.name)]


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name beside it, which it keeps until it is complete.

    Args:
        path: the final name, of which nothing exists; folders above it are made if missing.

    Yields:
        A path of the same name, at which the block makes the folder. It is removed if the block fails.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "bundle"
        >>> with folder_written_whole(path) as temporary:
        ...     temporary.mkdir()
        >>> path.is_dir(), len(list(path.parent.iterdir()))
        (True, 1)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished_", dir=path.parent) as place:
        temporary = Path(place) / path.name
        yield temporary
        temporary.rename(path)


def sha256(*parts: str | bytes | memoryview) -> str:
    """Return the SHA-256 of the parts, joined, in hexadecimal.

    Args:
        parts: text, which is hashed as UTF-8, bytes, and memory of contiguous arrays (``array.data``).

    Example:
        >>> sha256("one")[:16]
        '7692c3ad3540bb80'
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, which may be larger than the memory, in hexadecimal.

    Raises:
        OSError: if the file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def json_sha256(value: Any) -> str:
    """Return the SHA-256 of a value's JSON text, in hexadecimal; the order of names in a mapping does not count.

    Example:
        >>> json_sha256({"a": 1, "b": 2}) == json_sha256({"b": 2, "a": 1})
        True
    """
    return sha256(json.dumps(value, sort_keys=True))


def short_digest(*parts: str | bytes | memoryview, size: int = 16) -> str:
    """Return the BLAKE2b of the parts, joined, in hexadecimal: for keys that tell things apart and guard nothing.

    Args:
        parts: as for :func:`sha256`.
        size: number of bytes, 1 to 64; two digits each.

    Example:
        >>> short_digest("one", size=4)
        '8e83ed46'
    """
    digest = hashlib.blake2b(digest_size=size)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()
