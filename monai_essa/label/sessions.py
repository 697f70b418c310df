# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Files that clients send: uploads of one request, and sessions, whose images serve several inferences.

An archive of a session is unpacked member by member, and writes nothing outside its folder.
"""

from __future__ import annotations

import logging
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.utils.sessions import SessionInfo, Sessions

from monai_essa.outside import inside, shown

__all__ = ["ReceivedSessions", "is_received_file", "unpack", "upload_removed_if_refused"]

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SESSIONS = Path.home() / ".cache" / "monailabel" / "sessions"  # MONAI Label's default
_MOST_FILES = 20_000  # slices of a study with several series
_MOST_BYTES = 8 * 2**30
_CHUNK = 2**20
_RECORD = "meta.info"  # MONAI Label's own file in a session's folder
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)
_logger = logging.getLogger(__name__)


class ReceivedSessions(Sessions):
    """Keep sessions as MONAI Label does, but accept its own ids only and unpack archives member by member."""

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> SessionInfo | None:
        """Find a session; None for an id that is not one of ours, or an image outside the session's folder."""
        if not _ID.fullmatch(session_id):
            return None
        try:
            session = super().get_session(session_id, update_ts, fetch_cache)
        except (OSError, ValueError, TypeError, AttributeError) as error:  # its record is damaged
            _logger.warning("session %s cannot be read: %s", session_id, error)
            return None
        folder = Path(self.store_path) / session_id
        if session is None or not Path(session.image).resolve().is_relative_to(folder.resolve()):
            return None
        return session

    def remove_session(self, session_id: str) -> None:
        """Delete a session and its folder."""
        if _ID.fullmatch(session_id):
            super().remove_session(session_id)

    def remove_expired(self) -> int:
        """Delete the expired sessions and return their number; other folders are left alone."""
        store = Path(self.store_path)
        names = [path.name for path in store.iterdir() if path.is_dir()] if store.is_dir() else []
        sessions = {name: self.get_session(name, update_ts=False, fetch_cache=False) for name in names}
        now = time.time()
        over = [name for name, found in sessions.items() if found and 0 < found.expiry < now - found.last_access_ts]
        for name in over:
            self.remove_session(name)
        return len(over)

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> tuple[str, SessionInfo]:
        """Keep a file or a folder that a client sent; an archive is unpacked if it asks so.

        Raises:
            HTTPException: with status 400 if the file is not an archive, or :func:`unpack` refuses it.
        """
        received = Path(data_file)
        if received.name == _RECORD:
            raise HTTPException(400, f"file name '{_RECORD}': expected another; a session keeps its record there")
        if not uncompress or received.is_dir():
            return super().add_session(data_file, expiry, False, session_id)
        folder = Path(tempfile.mkdtemp())
        try:
            unpack(received, folder)
            return super().add_session(str(folder), expiry, False, session_id)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if received.parent.parent == Path(tempfile.gettempdir()):
                shutil.rmtree(received.parent, ignore_errors=True)  # MONAI Label leaves it there after an error


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a received tar or zip file of limited size; it may hold files and folders only, all below the folder.

    Args:
        archive: the file, compressed or not.
        folder: the folder to unpack into.

    Raises:
        ValueError: if the file is not a tar or zip archive or is damaged; if a member is a link or a device, or would
            leave the folder; or if there are too many files or bytes.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                _write_all(_zip_members(packed), archive, folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as packed_tar:
                _write_all(_tar_members(packed_tar), archive, folder)
        else:
            raise ValueError(f"{archive.name}: expected a zip or tar archive")
    except _DAMAGE as error:
        raise ValueError(f"{archive.name}: the archive cannot be unpacked: {error}") from error


def is_received_file(path: str) -> bool:
    """Return whether MONAI Label itself wrote a file, as an upload of one request or of a session."""
    sessions = Path(os.path.realpath(settings.MONAI_LABEL_SESSION_PATH or _SESSIONS))
    return _is_upload(path) or Path(os.path.realpath(path)).is_relative_to(sessions)


@contextmanager
def upload_removed_if_refused(*paths: Any) -> Iterator[None]:
    """Delete the uploads of a request that fails within the block; MONAI Label deletes those of other requests.

    Args:
        paths: the files of the request; those that are not uploads are kept.
    """
    try:
        yield
    except Exception:
        for path in paths:
            if isinstance(path, str) and _is_upload(path):
                Path(path).unlink(missing_ok=True)
        raise


def _is_upload(path: str) -> bool:
    real = Path(os.path.realpath(path))
    return real.parent == Path(os.path.realpath(tempfile.gettempdir())) and real.name.startswith("tmp")


def _zip_members(packed: zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes] | None]]:
    for member in packed.infolist():
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{shown(member.filename)}: expected files and folders only, got a link or a device")
        yield member.filename, None if member.is_dir() else packed.open(member)


def _tar_members(packed: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes] | None]]:
    for member in packed:
        if not (member.isreg() or member.isdir()):
            raise ValueError(f"{shown(member.name)}: expected files and folders only, got a link or a device")
        yield member.name, None if member.isdir() else packed.extractfile(member)


def _write_all(members: Iterator[tuple[str, Any]], archive: Path, folder: Path) -> None:
    left = _MOST_BYTES
    for number, (name, content) in enumerate(members, start=1):
        if number > _MOST_FILES:
            raise ValueError(f"{archive.name}: expected at most {_MOST_FILES} files, it holds more")
        path = inside(folder, name, archive.name)
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with content, open(path, "xb") as file:
            while chunk := content.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise ValueError(f"{archive.name}: expected at most {_MOST_BYTES >> 30} GB once unpacked")
                file.write(chunk)
