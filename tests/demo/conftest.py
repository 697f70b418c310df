# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the demo's tests share: an MSD-style folder of small volumes, and a demo on it that has a plan only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_essa.demo.data import DemoData, ImageCard
from monai_essa.demo.stages import DemoPlan, DemoSize

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


@pytest.fixture
def plan(tmp_path: Path) -> DemoPlan:
    """The default demo on a CT data set of the user's."""
    names = {name: name for name in ("unlabeled", "training", "validation", "test")}
    card = ImageCard((1.0, 1.0, 2.0), {"background": 0, "liver": 1}, in_channels=2, intensity="ct")
    data = DemoData(tmp_path / "datalist.json", {"source": "unlabeled", **names}, card, ("Own scans.",), False)
    return DemoPlan(data, DemoSize(), tmp_path / "my demo", seed=3)


def _write_volume(path: Path, voxels: np.ndarray, affine: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path
