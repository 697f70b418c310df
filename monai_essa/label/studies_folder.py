# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""MONAI Label's folder of studies, which nothing that a client sends can leave."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.local import LocalDatastore

__all__ = ["StudiesFolder", "check_plain_name", "is_received_file"]

_PLAIN = re.compile(r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]*")
_SESSIONS = Path.home() / ".cache" / "monailabel" / "sessions"  # MONAI Label's default


def check_plain_name(kind: str, name: str) -> str:
    """Return a name that a client sent, if it names nothing outside the folder that it is used in.

    Args:
        kind: what it names, for the message.
        name: as sent.

    Raises:
        HTTPException: with status 400, for a path, ``..`` or a hidden file.
    """
    if not _PLAIN.fullmatch(name):
        raise HTTPException(400, f"{kind} {name!r}: expected a plain name without '/', '\\' and a leading '.'")
    return name


def is_received_file(path: str) -> bool:
    """Say whether MONAI Label itself wrote a file, as an upload of one request or of a session."""
    real = Path(os.path.realpath(path))
    upload = real.parent == Path(os.path.realpath(tempfile.gettempdir())) and real.name.startswith("tmp")
    sessions = Path(os.path.realpath(settings.MONAI_LABEL_SESSION_PATH or _SESSIONS))
    return upload or real.is_relative_to(sessions)


class StudiesFolder(LocalDatastore):
    """A local folder of images and labels; ids and tags are plain names, or refused with status 400."""

    _refreshing = threading.Lock()  # of the class: the watcher of the folder starts before an instance is complete

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy an image into the folder."""
        if image_id:
            check_plain_name("image id", image_id)
        return super().add_image(image_id, image_filename, image_info)

    def remove_image(self, image_id: str) -> None:
        """Delete an image and its labels; the next request knows, it need not wait for the watcher of the folder."""
        super().remove_image(image_id)
        self.refresh()

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label; the next request knows, as for an image."""
        super().remove_label(label_id, label_tag)
        self.refresh()

    def refresh(self) -> None:
        """Look at the files again, one thread at a time."""
        with self._refreshing:
            super().refresh()

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Copy a label into the folder of its tag."""
        self.known(image_id)
        check_plain_name("label tag", getattr(label_tag, "value", label_tag))
        return super().save_label(image_id, label_filename, label_tag, label_info)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something about an image; what another process has saved meanwhile is read first, so that it stays."""
        self._init_from_datastore_file()
        super().update_image_info(image_id, info)

    def known(self, image_id: str) -> str:
        """Return the id of an image of the folder.

        Raises:
            HTTPException: with status 400 for a path, 404 for an id that the folder does not have.
        """
        check_plain_name("image id", image_id)
        if not self.get_image_uri(image_id):
            raise HTTPException(404, f"image id {image_id!r}: the studies folder has no such image")
        return image_id
