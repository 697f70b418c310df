# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from fastapi import HTTPException

from monai_essa.label.studies_folder import StudiesFolder, check_plain_name, is_received_file


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "/etc/passwd", "..", ".hidden", "", "a\x00b", "a\nb"])
def test_a_path_is_no_plain_name(name: str) -> None:
    with pytest.raises(HTTPException) as caught:
        check_plain_name("image id", name)
    assert caught.value.status_code == 400


@pytest.mark.parametrize("name", ["case_01", "MR.1.2.840", "Fall 7 (ä)"])
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
