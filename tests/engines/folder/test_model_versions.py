# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

from pathlib import Path

import pytest

from monai_essa.engines import next_run_folder, publish_model


def run_with(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.pt").write_text(content, encoding="utf-8")
    return folder


def contents(models: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(models.iterdir())}


def test_run_folders_are_counted_from_one(tmp_path: Path) -> None:
    assert next_run_folder(tmp_path / "runs") == tmp_path / "runs" / "001"
    for name in ("001", "007", "notes", "01x"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_run_folder(tmp_path / "runs").name == "008"


def test_publishing_replaces_the_model_and_keeps_each(tmp_path: Path) -> None:
    models = run_with(tmp_path / "models", "zero")
    for name in ("001", "002"):
        assert publish_model(run_with(tmp_path / "runs" / name, name), models) == models / "model.pt"
    assert contents(models) == {"model.pt": "002", "model_000.pt": "zero", "model_001.pt": "001", "model_002.pt": "002"}


def test_a_run_without_a_model_changes_nothing(tmp_path: Path) -> None:
    models = run_with(tmp_path / "models", "zero")
    (tmp_path / "runs" / "001").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="cannot be merged"):
        publish_model(tmp_path / "runs" / "001", models)
    assert contents(models) == {"model.pt": "zero"}
