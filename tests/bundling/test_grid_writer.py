# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the writer that keeps the grid of a scan, against MONAI's own, which it replaces."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImage, SpatialResample

from monai_essa.bundling.predict import ScanGridWriter

AFFINE = np.array([[0, -2.0, 0, 17], [0.6, 0, -6.4, -3], [0.8, 0, 4.8, 1e3 / 3], [0, 0, 0, 1]])


def written(folder: Path, voxels: torch.Tensor, affine: np.ndarray, shape: tuple[int, ...], **options: object):
    meta = {"original_affine": AFFINE, "spatial_shape": np.array(shape), "filename_or_obj": "a.nii"}
    image = MetaTensor(voxels, affine=torch.as_tensor(affine), meta=meta)
    image.meta["original_affine"] = AFFINE
    save = SaveImage(folder, output_postfix="", writer=ScanGridWriter, print_log=False, **options)
    save(image)
    return nib.load(folder / "a" / "a.nii.gz")


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 1), (4, 1, 1), (4, 5)])
@pytest.mark.parametrize("channels", [1, 2])
def test_shape_and_affine_are_those_of_the_scan(shape: tuple[int, ...], channels: int, tmp_path: Path) -> None:
    voxels = torch.arange(float(channels * np.prod(shape))).reshape(channels, *shape)
    nearly = AFFINE + 1e-3 * np.eye(4)  # what resampling there and back leaves of an affine
    image = written(tmp_path, voxels, nearly, shape)
    assert image.shape == (shape if channels == 1 else (*shape, channels))
    assert np.allclose(image.affine, AFFINE, rtol=0, atol=1e-4)
    assert np.array_equal(np.asarray(image.dataobj).ravel(), np.moveaxis(voxels.numpy(), 0, -1).ravel())


def test_a_slice_that_lost_its_third_axis_gets_it_back(tmp_path: Path) -> None:
    plane = AFFINE[np.ix_([0, 1, 3], [0, 1, 3])]
    image = written(tmp_path, torch.rand(1, 4, 5), plane, (4, 5, 1))
    assert image.shape == (4, 5, 1) and np.allclose(image.affine, AFFINE, atol=1e-4)


def test_a_result_on_another_grid_keeps_its_own(tmp_path: Path) -> None:
    other = np.diag([2.0, 2, 2, 1])
    image = written(tmp_path, torch.rand(1, 4, 5, 6), other, (4, 5, 6))
    assert np.allclose(image.affine, other)
    assert written(tmp_path / "b", torch.rand(1, 4, 5, 6), AFFINE, (8, 8, 8)).shape == (4, 5, 6)


def test_a_result_is_resampled_to_the_scan_where_that_is_asked_for(tmp_path: Path) -> None:
    scan = MetaTensor(torch.rand(1, 8, 8, 6), affine=torch.as_tensor(AFFINE))
    coarse = SpatialResample(mode="nearest")(scan, dst_affine=AFFINE @ np.diag([2, 2, 2, 1]), spatial_size=(4, 4, 3))
    image = written(tmp_path, coarse.as_tensor(), coarse.affine.numpy(), (8, 8, 6), resample=True)
    assert image.shape == (8, 8, 6) and np.allclose(image.affine, AFFINE, atol=1e-4)
