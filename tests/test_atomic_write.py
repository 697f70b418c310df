# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monai_essa.files import sync_and_rename, write_text_atomically


def test_the_text_replaces_the_old_file_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")
    write_text_atomically(path, "nürnberg")
    assert path.read_text(encoding="utf-8") == "nürnberg"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_whole_if_the_write_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")

    def no_space(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"


def test_the_bytes_are_on_the_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, path = tmp_path / "a.partial", tmp_path / "a"
    temporary.write_text("new")
    there_at_sync: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: there_at_sync.append(path.exists()))
    sync_and_rename(temporary, path)
    assert there_at_sync == [False]
    assert path.read_text() == "new"
