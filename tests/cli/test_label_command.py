# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import ast
from pathlib import Path


def test_init_writes_a_main_and_copies_the_bundle(monai_essa, unread_bundle: Path, tmp_path: Path) -> None:
    done = monai_essa("label", "init", tmp_path / "app", "--bundle", unread_bundle)
    assert (done.code, done.err) == (0, "")
    assert f"monai-essa label start {tmp_path / 'app'}" in done.out
    names = [
        alias.name
        for node in ast.parse((tmp_path / "app" / "main.py").read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module == "monai_essa.label"
        for alias in node.names
    ]
    assert names == ["EssaLabelApp"]
    copied = tmp_path / "app" / "model" / "spleen"
    assert (copied / "models" / "model.pt").read_text() == "weights"
    assert not (copied / "runs").exists()


def test_a_linked_bundle_is_the_users_own(monai_essa, unread_bundle: Path, tmp_path: Path) -> None:
    assert monai_essa("label", "init", tmp_path / "app", "--bundle", unread_bundle, "--link").code == 0
    assert (tmp_path / "app" / "model" / "spleen").resolve() == unread_bundle.resolve()


def test_init_leaves_an_existing_folder_alone(monai_essa, unread_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    done = monai_essa("label", "init", tmp_path / "app", "--bundle", unread_bundle)
    assert done.code == 1
    assert "exists; expected a new folder" in done.err
    assert list((tmp_path / "app").iterdir()) == []


def test_start_wants_an_app_folder(monai_essa, tmp_path: Path) -> None:
    done = monai_essa("label", "start", tmp_path, "--studies", tmp_path)
    assert done.code == 1
    assert "has no main.py; write one: monai-essa label init" in done.err
