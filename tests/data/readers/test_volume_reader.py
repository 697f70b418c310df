# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for VolumeReader on odd NIfTI files, against nibabel, and on files of all formats at once."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import DataLoader, Dataset
from monai.transforms import LoadImaged

from monai_essa.data.readers.monai_readers import VolumeReader
from monai_essa.data.readers.volume_file import read_volume

NiftiWriter = Callable[..., Path]
READER = "monai_essa.data.VolumeReader"
NIFTI_3D = (
    "ct_multiorgan_3mm/example_ct_sm",
    "ct_multiorgan_3mm/example_mr_sm",
    "ct_multiorgan_3mm/example_seg",
    "ct_spleen_float32_noq/sub-spleen2_ct",
    "ct_thorax_lps_aorta/ct_cropped",
    "nifti_pir_label/t1_seg_gif",
    "nifti_psr_orientation/t2",
    "nifti_psr_orientation/t2_seg-manual",
    "nifti_thick_7p5mm/t2s",
    "nifti_thick_7p5mm/t2s_seg-deepseg",
    "nifti_thick_7p5mm/t2s_uncropped",
)


@pytest.mark.parametrize("name", NIFTI_3D)
def test_real_nifti_has_the_geometry_that_nibabel_reads(data_dir: Path, name: str) -> None:
    path = data_dir / "odd-files" / f"{name}.nii.gz"
    expected = nib.load(path)
    loaded = LoadImaged(keys="image", reader=READER, ensure_channel_first=True)({"image": str(path)})["image"]
    assert loaded.shape == (1, *expected.shape)
    assert np.allclose(loaded.affine, expected.affine, atol=1e-5)
    assert np.array_equal(loaded[0], np.asanyarray(expected.dataobj).astype(np.float32))


@pytest.mark.parametrize(("name", "shape"), [("fmri", (30, 68, 68, 6)), ("dmri_oeslle", (4, 33, 33, 19))])
def test_the_fourth_dimension_of_real_nifti_becomes_channels(data_dir: Path, name: str, shape: tuple[int, ...]) -> None:
    array, affine = read_volume(data_dir / "odd-files" / "nifti_4d" / f"{name}.nii.gz")
    assert array.shape == shape
    assert affine.shape == (4, 4)


def test_a_real_vector_field_is_refused_in_one_line(data_dir: Path) -> None:
    path = data_dir / "odd-files" / "nifti_5d_vector_intent" / "warp_t22mt1.nii.gz"
    with pytest.raises(ValueError, match=r"warp_t22mt1\.nii\.gz: .* got 5-D \(40, 40, 5, 1, 3\)") as error:
        LoadImaged(keys="image", reader=READER)({"image": str(path)})
    assert "\n" not in str(error.value)


def test_real_dicom_goes_to_simpleitk(data_dir: Path) -> None:
    array, affine = read_volume(data_dir / "odd-files" / "dicom_ct_jpeg2000")
    assert array.shape == (1, 512, 512, 20)
    assert np.linalg.norm(affine[:3, :3], axis=0) == pytest.approx([0.9765625, 0.9765625, 2.0])
    assert array.min() >= -1024  # Hounsfield units: rescaled
    assert array.min() < -900


def test_sheared_affines_are_read(tmp_path: Path, write_nifti: NiftiWriter) -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.2
    path = write_nifti(tmp_path / "sheared.nii", np.ones((3, 4, 5), np.float32), affine)
    assert np.allclose(read_volume(path)[1], affine)


def test_formats_mix_in_one_batch(data_dir: Path, tmp_path: Path, write_nifti: NiftiWriter) -> None:
    nrrd = data_dir / "odd-files" / "nrrd_lps_flipped" / "breast1_image.nrrd"
    array, affine = read_volume(nrrd)
    nifti = write_nifti(tmp_path / "same.nii.gz", array[0], affine)
    dataset = Dataset(
        [{"image": str(nrrd)}, {"image": str(nifti)}], LoadImaged("image", READER, ensure_channel_first=True)
    )
    batch = next(iter(DataLoader(dataset, batch_size=2)))["image"]
    assert np.array_equal(batch[0], batch[1])
    assert np.allclose(batch.affine[0], batch.affine[1], atol=1e-5)


def test_header_text_is_not_kept(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4))
    image.header["descrip"] = b"Jane Doe"
    nib.save(image, tmp_path / "a.nii")
    loaded = LoadImaged(keys="image", reader=VolumeReader())({"image": str(tmp_path / "a.nii")})["image"]
    assert "Doe" not in str(loaded.meta)


def test_a_missing_file_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.nii\.gz: no such file; correct the path"):
        LoadImaged(keys="image", reader=READER)({"image": str(tmp_path / "gone.nii.gz")})


@pytest.mark.parametrize("content", ["truncated", "text", "empty"])
def test_a_damaged_nifti_gives_one_line_that_names_it(tmp_path: Path, write_nifti: NiftiWriter, content: str) -> None:
    array = np.random.default_rng(0).integers(0, 50, (20, 20, 20)).astype(np.float32)
    whole = write_nifti(tmp_path / "whole.nii.gz", array).read_bytes()
    contents = {"truncated": whole[:1500], "text": gzip.compress(b"a" * 999), "empty": b""}
    (tmp_path / "bad.nii.gz").write_bytes(contents[content])
    with pytest.raises(ValueError, match=r"bad\.nii\.gz: not a NIfTI file, or a damaged one") as error:
        read_volume(tmp_path / "bad.nii.gz")
    assert "\n" not in str(error.value)
