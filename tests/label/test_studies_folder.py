# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from fastapi import HTTPException

from monai_essa.label.sessions import is_received_file
from monai_essa.label.studies import StudiesFolder, check_plain_name


def refused(status: int, reason: str, call: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(HTTPException) as caught:
        call(*arguments)
    assert (caught.value.status_code, reason in caught.value.detail) == (status, True), caught.value.detail


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b", "a\\b", "/etc/passwd", "..", ".hidden", "", "a\x00b", "a\nb", "$x", "@x", "%x", "~x", "a@#b"],
)
def test_a_path_is_no_plain_name(name: str) -> None:
    refused(400, "expected a plain name", check_plain_name, "image id", name)


def test_a_long_name_is_no_plain_name() -> None:
    refused(400, "at most 200 characters", check_plain_name, "image id", "x" * 201)


@pytest.mark.parametrize("name", ["case_01", "MR.1.2.840", "Fall 7 (ä)", "a$b@c"])
def test_a_plain_name_is_kept(name: str) -> None:
    assert check_plain_name("image id", name) == name


def test_only_what_the_server_wrote_is_a_received_file(tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as upload:
        assert is_received_file(upload.name)
        link = tmp_path / "tmplink"
        link.symlink_to("/etc/hostname")
        assert not is_received_file(str(link))
    assert not is_received_file("/etc/hostname")
    assert not is_received_file(str(tmp_path / "scan.nii.gz"))


def test_a_removed_image_is_gone_at_once(studies: Path) -> None:
    store = StudiesFolder(str(studies), auto_reload=True)
    for number in range(6):
        store.remove_image(f"case_{number:02d}")
        assert len(store.list_images()) == 5 - number
    assert not list(studies.glob("*.nii.gz"))


def test_a_removed_label_is_gone_at_once(studies: Path, truth: Path) -> None:
    store = StudiesFolder(str(studies), auto_reload=True)
    for number in range(6):
        name = f"case_{number:02d}"
        store.save_label(name, str(truth / f"{name}.nii.gz"), "final", {})
        store.remove_label(name, "final")
        assert store.get_labeled_images() == []
    assert len(store.list_images()) == 6


def test_links_out_of_the_folder_and_odd_names_are_not_served(
    datastore: StudiesFolder, studies: Path, truth: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (studies / "out.nii.gz").symlink_to(truth / "case_03.nii.gz")
    (studies / "labels" / "final" / "case_02.nii.gz").symlink_to(truth / "case_02.nii.gz")
    (studies / "labels" / "other").symlink_to(truth, target_is_directory=True)
    (studies / "within.nii.gz").symlink_to(studies / "case_03.nii.gz")
    shutil.copy(studies / "case_03.nii.gz", studies / "$x.nii.gz")
    datastore.refresh()
    assert sorted(datastore.list_images()) == [*(f"case_{number:02d}" for number in range(6)), "within"]
    assert sorted(datastore.get_labeled_images()) == ["case_00", "case_01"]
    assert datastore.status()["label_tags"] == {"final": 2}
    assert "'out.nii.gz' is left out: it is a link out of the folder" in caplog.text
    assert any("'$x.nii.gz' is left out: expected a plain name" in line for line in datastore.status()["problems"])

    # One that is put in the place of a file that is known.
    for path in (studies / "case_01.nii.gz", studies / "labels" / "final" / "case_00.nii.gz"):
        path.unlink()
        path.symlink_to(truth / path.name)
    refused(404, "no such image", datastore.known, "case_01")
    assert datastore.get_image_uri("case_01") == datastore.get_label_uri("case_00", "final") == ""
    assert datastore.datalist() == []
    refused(400, "expected the name of a file below", datastore.add_image, "case_01", str(truth / "case_01.nii.gz"), {})
    refused(
        400,
        "expected the name of a file below",
        datastore.save_label,
        "case_00",
        str(truth / "case_00.nii.gz"),
        "final",
        {},
    )


def test_the_record_of_a_folder_is_checked_like_its_files(studies: Path, truth: Path) -> None:
    (studies / "out.nii.gz").symlink_to(truth / "case_03.nii.gz")
    entry = {"image": {"ext": ".nii.gz"}, "labels": {"../../x": {"ext": ".nii.gz"}}}
    outside = os.path.relpath(truth / "case_03", studies)
    names = ("case_00", "out", outside, str(truth / "case_03"))
    record = {"name": "n", "description": "d", "objects": dict.fromkeys(names, entry)}
    (studies / "datastore_v2.json").write_text(json.dumps(record))
    store = StudiesFolder(str(studies))
    assert sorted(store.list_images()) == [f"case_{number:02d}" for number in range(6)]
    assert store.get_labels_by_image_id("case_00") == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 3}'])
def test_a_damaged_record_is_made_anew(studies: Path, truth: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    StudiesFolder(str(studies)).save_label("case_02", str(truth / "case_02.nii.gz"), "final", {})
    (studies / "datastore_v2.json").write_text(text)
    store = StudiesFolder(str(studies))
    assert (len(store.list_images()), store.get_labeled_images()) == (6, ["case_02"])
    assert (studies / "datastore_v2.damaged").read_text() == text
    assert "is damaged: moved to datastore_v2.damaged" in caplog.text


def test_an_upload_takes_no_other_place_and_kind(studies: Path, truth: Path, tmp_path: Path) -> None:
    store, image = StudiesFolder(str(studies)), str(truth / "case_00.nii.gz")
    other = tmp_path / "x.json"
    other.write_text("{}")
    record = (studies / "datastore_v2.json").read_bytes()
    refused(400, "one of the kinds .nii.gz, .nii", store.add_image, "datastore_v2", str(other), {})
    refused(400, "one of the kinds", store.save_label, "case_00", str(other), "final", {})
    refused(400, "expected a plain name", store.save_label, "case_00", image, "../../x", {})
    refused(404, "no such image", store.save_label, "no_such", image, "final", {})
    assert (studies / "datastore_v2.json").read_bytes() == record
    assert store.add_image("", image, {"user": "a"}) == "case_00"


def test_notes_that_the_app_reads_have_their_form(studies: Path) -> None:
    store = StudiesFolder(str(studies))
    for wrong in (
        {"strategy": "x"},
        {"strategy": {"first": {"ts": "now"}}},
        {"epistemic_entropy": "high"},
        {"epistemic_entropy": float("nan")},
        {"../x": 1},
    ):
        refused(400, "info", store.update_image_info, "case_00", wrong)
    store.update_image_info("case_00", {"strategy": {"first": {"ts": 3, "client_id": None}}, "comment": "@anna"})
    assert store.get_image_info("case_00")["comment"] == "@anna"
    refused(404, "no such image", store.update_image_info, "no_such", {})
    refused(404, "has no label", store.update_label_info, "case_00", "final", {})


def test_what_another_process_notes_is_seen(studies: Path) -> None:
    here, other = StudiesFolder(str(studies), auto_reload=True), StudiesFolder(str(studies))
    other.update_image_info("case_00", {"epistemic_entropy": 0.5})
    deadline = time.monotonic() + 20
    while here.get_image_info("case_00").get("epistemic_entropy") != 0.5:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_refused_upload_is_deleted_and_another_file_is_not(
    studies: Path, truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store, upload = StudiesFolder(str(studies)), tmp_path / "tmpabc.nii.gz"
    for call, more in ((store.save_label, ("final", {})), (store.add_image, ({},))):
        shutil.copy(truth / "case_00.nii.gz", upload)
        refused(400, "expected a plain name", call, "../x", str(upload), *more)
        assert not upload.exists()
    refused(400, "expected a plain name", store.add_image, "../x", str(truth / "case_00.nii.gz"), {})
    assert (truth / "case_00.nii.gz").is_file()


def label(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), affine), path)
    return str(path)


def test_a_label_lies_on_its_image(studies: Path, truth: Path, tmp_path: Path) -> None:
    store = StudiesFolder(str(studies))
    image = nib.load(studies / "case_00.nii.gz")
    moved = image.affine.copy()
    moved[0, 3] += 1
    damaged = tmp_path / "cut.nii.gz"
    damaged.write_bytes((truth / "case_00.nii.gz").read_bytes()[:300])
    wrong = {
        "(30, 32, 40), got (32, 30, 40)": label(tmp_path / "a.nii.gz", (32, 30, 40), image.affine),
        "moves a corner by 1.0 voxels": label(tmp_path / "b.nii.gz", image.shape, moved),
        "expected one channel, got 2": label(tmp_path / "c.nii.gz", (*image.shape, 2), image.affine),
        "cannot be read as a label of case_00.nii.gz": str(damaged),
    }
    for reason, file in wrong.items():
        refused(422, reason, store.save_label, "case_00", file, "final", {})
    assert not list((studies / "labels" / "final").iterdir())
    store.save_label("case_00", label(tmp_path / "d.nii.gz", (*image.shape, 1), image.affine), "final", {})
    assert store.get_labeled_images() == ["case_00"]


@contextmanager
def somebody() -> Iterator[None]:
    """Within the block this process is nobody, whom permissions bind; root they do not."""
    if os.getuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize("with_labels", [False, True])
def test_a_folder_that_cannot_be_written_to_is_served(
    studies: Path, truth: Path, with_labels: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(shutil.copytree(studies, Path(parent) / "studies"))
        if with_labels:
            StudiesFolder(str(folder)).save_label("case_00", str(truth / "case_00.nii.gz"), "final", {})
        shutil.copy(truth / "case_01.nii.gz", parent)
        for path in (Path(parent), *Path(parent).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        with somebody():
            store = StudiesFolder(str(folder))
            assert len(store.list_images()) == 6
            assert len(store.datalist()) == int(with_labels)
            store.update_image_info("case_02", {"epistemic_entropy": 0.5})
            assert store.get_image_info("case_02")["epistemic_entropy"] == 0.5
            source = str(Path(parent) / "case_01.nii.gz")
            refused(409, "cannot be written to", store.save_label, "case_01", source, "final", {})
            refused(409, "cannot be written to", store.add_image, "x", source, {})
            refused(409, "cannot be written to", store.remove_image, "case_01")
        for path in (Path(parent), *Path(parent).rglob("*")):
            path.chmod(0o755)
    (warning,) = [record.message for record in caplog.records if "cannot be written to" in record.message]
    assert warning.endswith("it is served, labels and uploads are refused")
    assert "the folder cannot be written to" in store.status()["problems"]
