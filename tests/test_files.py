# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A file appears whole or not at all, and nothing beside it is touched."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from monai_essa.files import written_whole


def test_the_new_file_replaces_the_old_one_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")
    with written_whole(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError, match="half"), written_whole(path) as temporary:
        temporary.write_text("ne", encoding="utf-8")
        raise RuntimeError("half")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_that_was_there_is_taken_for_the_temporary_one(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in (".a.pt.part", "a.pt.partial", "a.pt.part", f".a.pt.partial-{os.getpid()}")]
    for path in mine:
        path.write_text("mine", encoding="utf-8")
    with written_whole(tmp_path / "a.pt") as temporary:
        assert temporary not in mine
        temporary.write_bytes(b"new")
    assert [path.read_text(encoding="utf-8") for path in mine] == ["mine"] * len(mine)


def test_the_bytes_are_on_the_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there_at_sync: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: there_at_sync.append((tmp_path / "a").exists()))
    with written_whole(tmp_path / "a") as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert there_at_sync == [False]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_who_may_read_the_file_is_up_to_the_user(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a") as temporary:
        temporary.write_bytes(b"")
    (tmp_path / "b").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"}
    assert len(modes) == 1


def test_a_long_name_has_room_for_its_temporary_one(tmp_path: Path) -> None:
    with written_whole(tmp_path / ("a" * 250)) as temporary:
        temporary.write_bytes(b"")
    assert len(list(tmp_path.iterdir())) == 1
