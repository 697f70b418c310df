# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for SimpleITKReader against nibabel and against the text of NRRD headers."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, SaveImaged

from monai_essa.data.readers.monai_readers import SimpleITKReader

SeriesWriter = Callable[..., np.ndarray]
NRRD_FILES = ("brain1_image", "breast1_image", "breast1_label", "prostate_phantom_subvolume-label")


def _load(path: Path, reader: object = SimpleITKReader) -> MetaTensor:
    load = Compose([LoadImaged(keys="image", reader=reader), EnsureChannelFirstd(keys="image")])
    return load({"image": str(path)})["image"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".mhd", ".nrrd"])
def test_geometry_is_the_same_in_every_format(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32))
    image.SetSpacing([0.5, 1.5, 2.5])
    image.SetOrigin([7.0, -8.0, 9.0])
    image.SetDirection([0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, -1])
    sitk.WriteImage(image, str(tmp_path / "reference.nii.gz"))
    sitk.WriteImage(image, str(tmp_path / f"volume{suffix}"))
    expected = nib.load(tmp_path / "reference.nii.gz")
    loaded = _load(tmp_path / f"volume{suffix}")
    assert np.allclose(loaded.affine, expected.affine, atol=1e-4)
    assert np.array_equal(loaded[0], expected.get_fdata().astype(np.float32))


def test_dicom_has_the_affine_that_itk_writes_to_nifti(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "odd-files" / "dicom_mr_oblique_t1post"
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    sitk.WriteImage(sitk.ReadImage(files), str(tmp_path / "by_itk.nii.gz"))
    expected = nib.load(tmp_path / "by_itk.nii.gz")
    loaded = _load(folder)
    assert np.allclose(loaded.affine, expected.affine, atol=1e-3)
    assert np.array_equal(loaded[0], expected.get_fdata().astype(np.float32))


@pytest.mark.parametrize("name", NRRD_FILES)
def test_real_nrrd_has_the_geometry_of_its_header(data_dir: Path, name: str) -> None:
    path = data_dir / "odd-files" / "nrrd_lps_flipped" / f"{name}.nrrd"
    voxels, affine = _read_nrrd(path)
    loaded = _load(path)
    assert np.allclose(loaded.affine, affine, atol=1e-5)
    assert np.array_equal(loaded[0], voxels.astype(np.float32))


def test_image_and_label_of_a_flipped_nrrd_share_the_grid(data_dir: Path) -> None:
    folder = data_dir / "odd-files" / "nrrd_lps_flipped"
    image, label = (_load(folder / f"brain1_{kind}.nrrd") for kind in ("image", "label"))
    assert np.allclose(image.affine, label.affine)
    assert image.shape == label.shape


def test_oriented_volume_is_saved_where_it_was(data_dir: Path, tmp_path: Path) -> None:
    image = _load(data_dir / "odd-files" / "nrrd_lps_flipped" / "brain1_image.nrrd")
    item = Orientationd(keys="image", axcodes="RAS", labels=None)({"image": image})
    SaveImaged(keys="image", output_dir=tmp_path, separate_folder=False, print_log=False)(item)
    saved = nib.load(tmp_path / "brain1_image_trans.nii.gz")
    assert nib.aff2axcodes(saved.affine) == ("R", "A", "S")
    point = image.affine.numpy() @ [100, 20, 3, 1]
    voxel = np.round(np.linalg.inv(saved.affine) @ point).astype(int)[:3]
    assert saved.get_fdata()[tuple(voxel)] == image[0, 100, 20, 3]


def test_vector_components_become_channels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (4, 5, 6, 2)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "two.nrrd"))
    assert np.array_equal(_load(tmp_path / "two.nrrd"), array.transpose(3, 2, 1, 0))


def test_the_fourth_dimension_becomes_channels(data_dir: Path) -> None:
    path = data_dir / "odd-files" / "nifti_4d" / "fmri.nii.gz"
    loaded, expected = _load(path), nib.load(path)
    assert loaded.shape == (30, 68, 68, 6)
    assert np.allclose(loaded.affine, expected.affine, atol=1e-4)
    assert np.array_equal(loaded[7], expected.dataobj[..., 7].astype(np.float32))


def test_several_files_become_channels_if_they_share_the_grid(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(24.0).reshape(2, 3, 4))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    sitk.WriteImage(image + 1, str(tmp_path / "b.nrrd"))
    image.SetOrigin([5.0, 0, 0])
    sitk.WriteImage(image, str(tmp_path / "moved.nrrd"))
    load = LoadImaged(keys="image", reader=SimpleITKReader(), ensure_channel_first=True)
    both = load({"image": [str(tmp_path / "a.nrrd"), str(tmp_path / "b.nrrd")]})["image"]
    assert both.shape == (2, 4, 3, 2)
    assert np.array_equal(both[1], both[0] + 1)
    with pytest.raises(ValueError, match=r"moved\.nrrd: expected shape and position of its first channel"):
        load({"image": [str(tmp_path / "a.nrrd"), str(tmp_path / "moved.nrrd")]})


def test_no_tag_of_the_patient_is_kept(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path / "series", [0.0, 2.0], patient="secret-id")
    text = str(_load(tmp_path / "series").meta)
    assert "Doe" not in text
    assert "secret" not in text


def test_series_uid_chooses_from_a_folder(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 2.0], series="1.2.3.1")
    write_series(tmp_path, [0.0, 2.0, 4.0], series="1.2.3.2")
    assert _load(tmp_path, SimpleITKReader(series_uid="1.2.3.2")).shape == (1, 6, 5, 3)


@pytest.mark.parametrize(("name", "error"), [("missing.nrrd", FileNotFoundError), ("broken.nrrd", ValueError)])
def test_a_bad_file_gives_one_line_that_names_it(tmp_path: Path, name: str, error: type[Exception]) -> None:
    (tmp_path / "broken.nrrd").write_bytes(b"NRRD0004\nbroken")
    with pytest.raises(error, match=name) as caught:
        LoadImaged(keys="image", reader=SimpleITKReader())({"image": str(tmp_path / name)})
    assert "\n" not in str(caught.value)


def test_uneven_series_is_not_handed_to_another_reader(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path, [0.0, 2.0, 6.0])
    with pytest.raises(ValueError, match="evenly spaced"):
        LoadImaged(keys="image", reader=SimpleITKReader())({"image": str(tmp_path)})


def _read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    header, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(re.findall(r"^([^:#\n]+):=? ?(.*)$", header.decode(), re.MULTILINE))
    kinds = {"double": "f8", "float": "f4", "short": "i2", "unsigned char": "u1", "unsigned short": "u2", "int": "i4"}
    kind = np.dtype(kinds[fields["type"]]).newbyteorder("<")
    raw = gzip.decompress(body) if fields["encoding"] in ("gzip", "gz") else body
    voxels = np.frombuffer(raw, kind).reshape([int(size) for size in fields["sizes"].split()], order="F")
    columns = [[float(v) for v in part.split(",")] for part in re.findall(r"\(([^)]*)\)", fields["space directions"])]
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T
    affine[:3, 3] = [float(value) for value in fields["space origin"].strip("()").split(",")]
    flip = np.diag([-1, -1, 1, 1]) if fields["space"] == "left-posterior-superior" else np.eye(4)
    return voxels, flip @ affine
