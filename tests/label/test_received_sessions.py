# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from fastapi import HTTPException

from monai_essa.label import sessions as received_sessions
from monai_essa.label.sessions import ReceivedSessions, unpack

MARK = b"written by an archive"


def tar(path: Path, name: str, **fields: Any) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(member, field, value)
        member.size = len(MARK) if member.isreg() else 0
        archive.addfile(member, io.BytesIO(MARK))
    return path


def zipped(path: Path, name: str, mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        archive.writestr(member, MARK)
    return path


HARMFUL: dict[str, Callable[[Path], Path]] = {
    "above": lambda path: tar(path, "../outside"),
    "absolute": lambda path: tar(path, str(path.parent / "outside")),
    "deep": lambda path: tar(path, "a/../../outside"),
    "link": lambda path: tar(path, "a", type=tarfile.SYMTYPE, linkname="/etc/hostname"),
    "hard link": lambda path: tar(path, "a", type=tarfile.LNKTYPE, linkname="../../etc/hostname"),
    "device": lambda path: tar(path, "a", type=tarfile.CHRTYPE),
    "pipe": lambda path: tar(path, "a", type=tarfile.FIFOTYPE),
    "zip above": lambda path: zipped(path, "../outside"),
    "zip backslash": lambda path: zipped(path, "..\\outside"),
    "zip link": lambda path: zipped(path, "a", 0o120777),
    "no archive": lambda path: path.write_bytes(b"text") and path,
    "cut off": lambda path: path.write_bytes(tar(path, "a").read_bytes()[:60]) and path,
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_nothing_is_written_outside(kind: str, tmp_path: Path) -> None:
    archive = HARMFUL[kind](tmp_path / "study.tar.gz")
    folder = tmp_path / "in" / "folder"
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"expected|cannot be unpacked"):
        unpack(archive, folder)
    assert {path.name for path in tmp_path.rglob("*")} <= {"study.tar.gz", "in", "folder", "a"}
    assert not any(path.is_symlink() or path.is_fifo() for path in folder.rglob("*"))


def test_a_study_is_unpacked(tmp_path: Path) -> None:
    for number, archive in enumerate(
        (tar(tmp_path / "a.tar.gz", "./series/1.dcm"), zipped(tmp_path / "a.zip", "series/1.dcm"))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        unpack(archive, folder)
        assert (folder / "series" / "1.dcm").read_bytes() == MARK


def test_number_and_size_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "many.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(4):
            packed.writestr(f"{number}", b"0" * 1000)
    monkeypatch.setattr(received_sessions, "_MOST_FILES", 3)
    with pytest.raises(ValueError, match="expected at most 3 files"):
        unpack(archive, tmp_path / "one")
    monkeypatch.setattr(received_sessions, "_MOST_FILES", 9)
    monkeypatch.setattr(received_sessions, "_MOST_BYTES", 2500)
    with pytest.raises(ValueError, match="once unpacked"):
        unpack(archive, tmp_path / "two")


def test_a_session_is_found_by_its_own_id_only(tmp_path: Path) -> None:
    sessions = ReceivedSessions(str(tmp_path / "sessions"))
    (tmp_path / "scan.nii.gz").write_bytes(MARK)
    name, info = sessions.add_session(str(tmp_path / "scan.nii.gz"))
    assert Path(sessions.get_session(name).image).read_bytes() == MARK
    other = tmp_path / "sessions" / "x"
    other.mkdir()
    (other / "meta.info").write_text(json.dumps({"image": "/etc/hostname", "expiry": 1, "last_access_ts": 1}))
    for wrong in ("x", "..", f"{name}/../x", ""):
        assert sessions.get_session(wrong) is None
        sessions.remove_session(wrong)
    assert other.is_dir()
    assert sessions.remove_expired() == 0


def test_an_image_outside_and_a_damaged_record_are_no_session(tmp_path: Path) -> None:
    sessions = ReceivedSessions(str(tmp_path))
    (tmp_path / "scan.nii.gz").write_bytes(MARK)
    name, _ = sessions.add_session(str(tmp_path / "scan.nii.gz"))
    sessions.clear()
    record = tmp_path / name / "meta.info"
    for text in (json.dumps({"image": "/etc/hostname"}), "", "[1]", "{"):
        record.write_text(text)
        sessions.clear()
        assert sessions.get_session(name, update_ts=False) is None
        assert record.exists()
    assert sessions.remove_expired() == 0
    with pytest.raises(HTTPException, match="keeps its record there"):
        sessions.add_session(str(record))


@pytest.mark.parametrize("kind", ["above", "link", "zip above"])
def test_the_server_answers_a_harmful_archive_with_the_reason(http: Any, kind: str, tmp_path: Path) -> None:
    archive = HARMFUL[kind](tmp_path / "study.tar.gz")
    answer = http.put("/session/?uncompress=true", files={"files": ("study.tar.gz", archive.read_bytes())})
    assert answer.status_code == 400
    assert "expected" in answer.json()["detail"]
    assert not list(tmp_path.rglob("outside"))
    assert list((tmp_path / "uploads").iterdir()) == []


def test_the_server_infers_on_a_session(http: Any, studies: Path) -> None:
    image = (studies / "case_00.nii.gz").read_bytes()
    made = http.put("/session/", files={"files": ("case_00.nii.gz", image)}).json()["session_id"]
    answer = http.post(f"/infer/ball_segmentation?session_id={made}&output=json", data={"params": "{}"})
    assert answer.json()["adapter"] == "base"
    assert http.delete(f"/session/{made}").status_code == 200
    assert http.post(f"/infer/ball_segmentation?session_id={made}", data={"params": "{}"}).status_code == 404
