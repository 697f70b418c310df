# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A file appears whole or not at all, nothing beside it is touched, and stored digests stay what they are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_essa.adapters.identity import sha256_of, sha256_of_all
from monai_essa.data.loading.keyed import key
from monai_essa.files import (
    file_sha256,
    folder_written_whole,
    json_sha256,
    sha256,
    short_digest,
    unfinished,
    write_text_whole,
    written_whole,
)


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


def test_a_text_is_written_in_utf_8(tmp_path: Path) -> None:
    write_text_whole(tmp_path / "a", "nürnberg\n")
    assert (tmp_path / "a").read_bytes() == b"n\xc3\xbcrnberg\n"


def test_a_disk_that_fails_at_the_last_moment_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_: int) -> None:
        raise OSError("No space left on device")

    (tmp_path / "a").write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_text_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_temporary_files_of_a_name_are_unfinished(tmp_path: Path) -> None:
    for name in (".a.pt.part", f".a.pt.{'x' * 16}.part", f".b.json.{'0' * 16}.part", "a.pt"):
        (tmp_path / name).touch()
    with written_whole(tmp_path / "a.pt") as temporary:
        assert unfinished(tmp_path, "*.pt") == [temporary]
    assert unfinished(tmp_path, "*.pt") == []


@pytest.mark.parametrize("fails", [True, False])
def test_a_folder_is_there_when_it_is_complete(tmp_path: Path, fails: bool) -> None:
    try:
        with folder_written_whole(tmp_path / "new" / "bundle") as folder:
            folder.mkdir()
            (folder / "a").touch()
            assert folder.name == "bundle" and not (tmp_path / "new" / "bundle").exists()
            if fails:
                raise RuntimeError("half")
    except RuntimeError:
        assert list((tmp_path / "new").iterdir()) == []
    else:
        assert [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "new").rglob("*")] == [
            "new/bundle",
            "new/bundle/a",
        ]


# Adapter files, run.json, resume files and caches hold such digests: another value would refuse them all.
def test_digests_are_those_that_files_on_disks_hold(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one" * 10**6)
    assert file_sha256(tmp_path / "a") == sha256(b"one" * 10**6)
    assert sha256("on", b"e") == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert json_sha256({"b": [1, None], "a": 0.5}) == sha256('{"a": 0.5, "b": [1, null]}')
    assert short_digest(np.ones((2, 3), np.uint8).data, size=8) == short_digest(b"\1" * 6, size=8)
    assert short_digest("one") == "c88d4df74262143a08e9d190e3bd67f1"
    assert sha256_of(torch.ones(2)) == sha256("torch.float32 (2,)", b"\0\0\x80\x3f" * 2)
    assert sha256_of_all({"b": torch.ones(1), "a": torch.zeros(())}) == sha256(
        f"a\n{sha256_of(torch.zeros(()))}\nb\n{sha256_of(torch.ones(1))}\n"
    )
    assert key(0, "order", 1) == int(short_digest("0/order/1", size=4), 16)
