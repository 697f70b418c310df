# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for telling scans from label maps by a few slices."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from monai_essa.data.readers.folder import VolumeLook, holds_label_ids, look_at

RNG = np.random.default_rng(0)


def _regions(levels: int, size: int = 96) -> np.ndarray:
    """Stripes of 6 voxels, each with an id of its own."""
    return np.repeat(np.arange(size // 6), 6)[None] % levels + np.zeros((size, 1))


@pytest.mark.parametrize(
    "voxels",
    [
        RNG.integers(0, 3, (8, 64)),
        RNG.integers(0, 14, (8, 64)),
        255 * RNG.integers(0, 2, (40, 40)),
        _regions(5) * 0.99999994,
        _regions(3) * 0.0117647,
        np.repeat(RNG.permutation(150), 8).reshape(30, 40),  # a parcellation
    ],
    ids=["noise of 3 ids", "noise of 14 ids", "0 and 255", "nearly whole", "scaled", "150 regions"],
)
def test_label_maps_are_known(voxels: np.ndarray) -> None:
    assert holds_label_ids(voxels) is True


@pytest.mark.parametrize(
    "voxels",
    [
        RNG.normal(100, 20, (64, 64)).astype(np.int16),
        RNG.integers(0, 99, (6, 36)),
        np.clip(RNG.normal(-100, 200, (128, 128)), -175, 250).astype(np.int16),  # a windowed CT
        np.where(np.arange(128) < 90, 0, RNG.integers(20, 200, (128, 128))),  # ultrasound, mostly black
        RNG.poisson(4, (200, 200)),  # counts of a nuclear camera
        np.where(RNG.random((64, 64)) < 0.01, np.nan, 1.0),
    ],
    ids=["16-bit", "99 levels", "windowed", "black margin", "few counts", "NaN"],
)
def test_scans_are_no_label_maps(voxels: np.ndarray) -> None:
    assert holds_label_ids(voxels) is False


def test_nothing_can_be_told_of_equal_voxels() -> None:
    assert holds_label_ids(np.zeros((8, 8))) is None


def test_a_structure_that_misses_the_middle_is_found(tmp_path: Path) -> None:
    array = np.zeros((64, 64, 64), np.uint8)
    array[10:14, 10:14, 3:5] = 1
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    assert look_at(tmp_path / "a.nii.gz").is_label is True


def test_only_slices_of_a_large_volume_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = RNG.normal(100, 20, (64, 64, 64)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    monkeypatch.setattr(nib.arrayproxy.ArrayProxy, "__array__", lambda *_: pytest.fail("the whole volume was read"))
    assert look_at(tmp_path / "a.nii").is_label is False


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.seg.nrrd", "a.mgz"])
def test_every_format_gives_the_same_grid(name: str, tmp_path: Path) -> None:
    array = RNG.integers(0, 3, (5, 6, 7)).astype(np.uint8)
    if name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array, np.diag([-2.0, -2.0, 3.0, 1.0])), tmp_path / name)
    elif name.endswith(".mgz"):
        nib.save(nib.MGHImage(array, np.diag([-2.0, -2.0, 3.0, 1.0])), tmp_path / name)
    else:
        image = sitk.GetImageFromArray(array.T)
        image.SetSpacing((2, 2, 3))
        sitk.WriteImage(image, str(tmp_path / name))
    look = look_at(tmp_path / name)
    assert (look.is_label, look.shape, look.channels) == (True, (5, 6, 7), 1)
    assert look.on_grid_of(VolumeLook(None, (5, 6, 7), np.diag([-2.0, -2.0, 3.0, 1.0])))
    assert not look.on_grid_of(VolumeLook(None, (5, 6, 7), np.diag([2.0, -2.0, 3.0, 1.0])))


def test_time_points_are_channels(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(RNG.normal(size=(5, 6, 7, 4)).astype(np.float32), np.eye(4)), tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(RNG.normal(size=(5, 6, 7, 1)).astype(np.float32), np.eye(4)), tmp_path / "b.nii")
    assert [look_at(tmp_path / name).channels for name in ("a.nii", "b.nii")] == [4, 1]
    assert look_at(tmp_path / "a.nii").is_label is False


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_a_picture_of_two_levels_is_a_label_map(mode: str, tmp_path: Path) -> None:
    Image.fromarray((255 * RNG.integers(0, 2, (32, 32))).astype(np.uint8)).convert(mode).save(tmp_path / "a.png")
    assert look_at(tmp_path / "a.png").is_label is True


def test_a_photograph_is_no_label_map(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert look_at(tmp_path / "a.png").is_label is False


def test_a_file_that_cannot_be_read_gives_an_empty_look(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header["dim"][:4] = [3, 10_000, 10_000, 10_000]
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "huge.nii").write_bytes(header.binaryblock + b"\0" * 4)
    (tmp_path / "page.nii.gz").write_bytes(b"<html>404</html>")
    (tmp_path / "page.nrrd").write_bytes(b"<html>404</html>")
    (tmp_path / "page.png").write_bytes(b"<html>404</html>")
    (tmp_path / "empty.nii").touch()
    (tmp_path / "folder.nii").mkdir()
    os.mkfifo(tmp_path / "pipe.nii")
    colours = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii")
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.complex64), np.eye(4)), tmp_path / "complex.nii")
    assert [look_at(path).is_label for path in sorted(tmp_path.iterdir())] == [None] * 9


def test_a_look_opens_no_file_that_the_readers_refuse(tmp_path: Path) -> None:
    """Not one elsewhere that a header names, not one that would end the process, and no picture that runs a program."""
    (tmp_path / "scans").mkdir()
    np.repeat(np.arange(4, dtype=np.uint8), 30).tofile(tmp_path / "elsewhere.raw")
    fields = "ObjectType = Image\nNDims = {}\nDimSize = 6 5 4\nElementType = MET_UCHAR\nElementDataFile = {}\n"
    headers = {
        "a.mhd": fields.format(3, "../elsewhere.raw"),
        "b.mha": fields.format(-1, "LOCAL"),
        "c.png": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
    }
    for name, text in headers.items():
        (tmp_path / "scans" / name).write_text(text, encoding="ascii")
        look = look_at(tmp_path / "scans" / name)
        assert (look.is_label, look.shape) == (None, ()), name


def test_a_header_of_more_voxels_than_its_file_holds_is_not_looked_at(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((6, 5, 4), np.uint8), np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[42:48] = np.array([20000] * 3, "<i2").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    assert look_at(tmp_path / "a.nii").shape == ()
