# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Small DICOM series and NIfTI files for the data tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

SeriesWriter = Callable[..., np.ndarray]
NiftiWriter = Callable[..., Path]


@pytest.fixture
def write_series() -> SeriesWriter:
    """Writes one DICOM series with slices at given distances along the normal; returns its voxels (x, y, z).

    ``tags`` replaces those of the header; ``None`` leaves one out.
    """

    def write(
        folder: Path,
        distances: Sequence[float],
        series: str = "1.2.3.1",
        study: str = "1.2.3",
        patient: str = "anon",
        tilt: float = 0.0,
        tags: Mapping[str, str | None] | None = None,
    ) -> np.ndarray:
        folder.mkdir(parents=True, exist_ok=True)
        row, column = np.array([1.0, 0, 0]), np.array([0, np.cos(tilt), np.sin(tilt)])
        voxels = np.random.default_rng(len(distances)).integers(0, 900, (6, 5, len(distances)), dtype=np.int16)
        for index, distance in enumerate(distances):
            position = np.array([10.0, -20.0, 30.0]) + distance * np.cross(row, column)
            held = {
                "0008|0060": "MR",
                "0010|0010": "Doe^Jane",
                "0010|0020": patient,
                "0018|0050": "9.0",
                "0020|000d": study,
                "0020|000e": series,
                "0020|0032": "\\".join(f"{value:.6f}" for value in position),
                "0020|0037": "\\".join(f"{value:.10f}" for value in (*row, *column)),
            } | dict(tags or {})
            path = folder / f"{series}.{len(distances) - index:03d}"
            _write_slice(path, voxels[..., index], {tag: text for tag, text in held.items() if text is not None})
        return voxels

    return write


@pytest.fixture
def write_nifti() -> NiftiWriter:
    """Writes an array with an affine and returns the path."""

    def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return write


def _write_slice(path: Path, pixels: np.ndarray, tags: dict[str, str]) -> None:
    image = sitk.GetImageFromArray(pixels.T[None])
    image.SetSpacing([0.5, 0.75, 9.0])
    for tag, value in tags.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.Execute(image)
