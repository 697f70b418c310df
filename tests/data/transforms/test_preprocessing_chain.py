# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests that MONAI's own transforms take a prediction back to the geometry of the input.

The two lists are the chain that the bundles' ``inference.yaml`` writes: components of MONAI only.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import (
    AsDiscreted,
    Compose,
    CopyItemsd,
    DeleteItemsd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    SaveImaged,
    Spacingd,
)

from monai_essa.data import read_volume

CLASSES = 3


def _preprocessing(reader: str | None = None) -> Compose:
    return Compose(
        [
            LoadImaged(keys="image", reader=reader),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=None),
            # MONAI Label adds the text "image_path", which Spacingd takes for the metadata of "image".
            CopyItemsd(keys="image_path", names="path_of_image", allow_missing_keys=True),
            DeleteItemsd(keys="image_path"),
            Spacingd(keys="image", pixdim=(1.0, 1.0, 1.0), mode="bilinear"),
            CopyItemsd(keys="path_of_image", names="image_path", allow_missing_keys=True),
            NormalizeIntensityd(keys="image", channel_wise=True),
        ]
    )


def _postprocessing(preprocessing: Compose, folder: Path) -> Compose:
    return Compose(
        [
            Invertd(keys="pred", transform=preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted(keys="pred", argmax=True),
            SaveImaged(
                keys="pred",
                output_dir=folder,
                output_postfix="seg",
                output_dtype=np.uint8,
                separate_folder=False,
                resample=False,
                print_log=False,
            ),
        ]
    )


def _segment_by_intensity(path: Path, folder: Path, reader: str | None = None) -> nib.Nifti1Image:
    """Runs the chain with a network that tells the classes of a label map by its intensities."""
    preprocessing = _preprocessing(reader)
    item = preprocessing({"image": str(path), "image_path": str(path)})
    assert item["image_path"] == str(path)
    levels = torch.linspace(float(item["image"].min()), float(item["image"].max()), CLASSES)
    distance = (item["image"] - levels.reshape(-1, 1, 1, 1)).abs()  # (classes, x, y, z)
    item["pred"] = torch.softmax(-50.0 * distance, dim=0)
    _postprocessing(preprocessing, folder)(item)
    (written,) = folder.glob("*_seg.nii.gz")
    return nib.load(written)


def _dice(one: np.ndarray, other: np.ndarray, value: int) -> float:
    return 2.0 * np.sum((one == value) & (other == value)) / (np.sum(one == value) + np.sum(other == value))


def _oriented(axes: str, degrees: float, spacing: tuple[float, float, float]) -> np.ndarray:
    codes = nib.orientations.axcodes2ornt(axes)
    affine = np.zeros((4, 4))
    for voxel_axis, (world_axis, sign) in enumerate(codes):
        affine[int(world_axis), voxel_axis] = sign * spacing[voxel_axis]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[1, 0, 0, 12.0], [0, cos, -sin, -34.0], [0, sin, cos, 56.0], [0, 0, 0, 1]])
    affine[3, 3] = 1.0
    return turn @ affine


@pytest.fixture
def label_map() -> np.ndarray:
    """A ball in a larger ball, away from the middle: no flip or transposition maps it to itself."""
    x, y, z = np.meshgrid(np.arange(36), np.arange(44), np.arange(24), indexing="ij")
    outer = (x - 14) ** 2 + (y - 26) ** 2 + (z - 10) ** 2 < 9**2
    inner = (x - 11) ** 2 + (y - 29) ** 2 + (z - 9) ** 2 < 5**2
    return (outer.astype(np.uint8) + (outer & inner)).astype(np.uint8)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.9, 2.5)])
@pytest.mark.parametrize(
    ("axes", "degrees"), [("RAS", 0), ("LPS", 0), ("PSR", 0), ("PIR", 0), ("LPS", 11), ("RAS", 30)]
)
def test_a_prediction_comes_back_to_its_voxels(
    tmp_path: Path, label_map: np.ndarray, axes: str, degrees: float, spacing: tuple[float, float, float]
) -> None:
    affine = _oriented(axes, degrees, spacing)
    nib.save(nib.Nifti1Image(label_map, affine), tmp_path / "case.nii.gz")
    result = _segment_by_intensity(tmp_path / "case.nii.gz", tmp_path / "out")
    assert result.shape == label_map.shape
    assert np.allclose(result.affine, affine, atol=1e-4)
    voxels = np.asarray(result.dataobj)
    if spacing == (1.0, 1.0, 1.0):
        assert np.mean(voxels == label_map) > 0.999
    assert min(_dice(voxels, label_map, value) for value in (1, 2)) > 0.85


@pytest.mark.parametrize(
    "name",
    [
        "nifti_psr_orientation/t2_seg-manual",
        "ct_spleen_float32_noq/sub-spleen2_ct_seg-manual",
        "ct_thorax_lps_aorta/aorta",
    ],
)
def test_a_real_label_comes_back_to_its_voxels(data_dir: Path, tmp_path: Path, name: str) -> None:
    path = data_dir / "odd-files" / f"{name}.nii.gz"
    original = nib.load(path)
    result = _segment_by_intensity(path, tmp_path)
    assert result.shape == original.shape
    assert np.allclose(result.affine, original.affine, atol=1e-3)
    assert _dice(np.asarray(result.dataobj) > 0, np.asarray(original.dataobj) > 0, 1) > 0.95


@pytest.mark.parametrize(
    "name", ["nrrd_lps_flipped/brain1_label.nrrd", "nrrd_lps_flipped/prostate_phantom_subvolume-label.nrrd"]
)
def test_a_real_nrrd_label_comes_back_to_its_place(data_dir: Path, tmp_path: Path, name: str) -> None:
    path = data_dir / "odd-files" / name
    array, affine = read_volume(path)
    result = _segment_by_intensity(path, tmp_path, "monai_essa.data.VolumeReader")
    assert result.shape == array.shape[1:]
    assert np.allclose(result.affine, affine, atol=1e-3)
    assert _dice(np.asarray(result.dataobj) > 0, array[0] > 0, 1) > 0.8


def test_an_oblique_dicom_prediction_lies_on_the_series(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "odd-files" / "dicom_mr_oblique_t1post"
    array, affine = read_volume(folder)
    result = _segment_by_intensity(folder, tmp_path, "monai_essa.data.VolumeReader")
    assert result.shape == array.shape[1:]
    assert np.allclose(result.affine, affine, atol=1e-3)
    bright, dark = (np.asarray(result.dataobj) == value for value in (2, 0))
    assert array[0][bright].min() > array[0][dark].mean()


def test_the_same_chain_is_read_with_and_without_our_reader(tmp_path: Path, label_map: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(label_map, _oriented("PSR", 20, (0.8, 0.9, 2.5))), tmp_path / "case.nii.gz")
    readers: tuple[str | None, ...] = (None, "monai_essa.data.VolumeReader")
    stock, ours = (_preprocessing(reader)({"image": str(tmp_path / "case.nii.gz")})["image"] for reader in readers)
    assert torch.equal(stock, ours)
    assert torch.equal(stock.affine, ours.affine)
