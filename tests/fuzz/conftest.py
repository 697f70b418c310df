# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A scratch folder that is the current one, so that relative names of an input lead nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
