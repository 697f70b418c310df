# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the demo's tests share: an MSD-style folder of small volumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

LABELS = {"0": "background", "1": "anterior", "2": "posterior"}


@pytest.fixture
def write_volume() -> Callable[..., Path]:
    """Writes voxels as a NIfTI file."""
    return _write_volume


@pytest.fixture
def msd_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with a dataset.json: cases per section, and further keys of the file."""

    def make(shape: tuple[int, ...] = (8, 10, 12), affine: Any = None, keys: Any = None, **sections: int) -> Path:
        folder = tmp_path / "own"
        folder.mkdir()
        content: dict[str, Any] = {"labels": LABELS, **(keys or {})}
        for section, count in sections.items():
            names = [f"{section}{number}_scan.nii.gz" for number in range(count)]
            content[section] = [{"image": f"images/{name}", "label": f"labels/{name}"} for name in names]
            for item in content[section]:
                for path in item.values():
                    _write_volume(folder / path, np.zeros(shape, dtype=np.uint8), affine)
        (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
        return folder

    return make


def _write_volume(path: Path, voxels: np.ndarray, affine: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path
