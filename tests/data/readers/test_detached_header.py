# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A header opens voxels beside it and nowhere else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from monai_essa.data import read_volume
from monai_essa.data.readers.nifti import check_data_files

VOXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def nhdr(data: str) -> str:
    return f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 3 2\nencoding: raw\ndata file: {data}\n"


def mhd(data: str) -> str:
    return f"ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\nElementDataFile = {data}\n"


HEADERS: dict[str, Callable[[str], str]] = {"a.nhdr": nhdr, "a.nrrd": nhdr, "a.mhd": mhd, "a.mha": mhd}
every_header = pytest.mark.parametrize("name", HEADERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of images with voxels in it and below it, and a secret beside it."""
    (tmp_path / "scans" / "raw").mkdir(parents=True)
    for place in ("scans/a.raw", "scans/raw/a.raw", "secret.raw"):
        (tmp_path / place).write_bytes(VOXELS.tobytes())
    for number in range(2):
        (tmp_path / "scans" / f"slice{number}.raw").write_bytes(VOXELS[number].tobytes())
    return tmp_path / "scans"


@every_header
@pytest.mark.parametrize("data", ["a.raw", "raw/a.raw", "LIST\nslice0.raw\nslice1.raw"])
def test_voxels_beside_the_header_are_read(name: str, data: str, folder: Path) -> None:
    listed = data.replace("LIST", "LIST 2") if name.endswith(("nhdr", "nrrd")) else data
    (folder / name).write_text(HEADERS[name](listed), encoding="utf-8")
    assert np.array_equal(read_volume(folder / name)[0][0].T, VOXELS)


@every_header
@pytest.mark.parametrize(
    "data", ["../secret.raw", "raw/../../secret.raw", "{secret}", "link.raw", "up/secret.raw", "LIST\na.raw\n{secret}"]
)
def test_voxels_elsewhere_are_refused_in_one_line(name: str, data: str, folder: Path) -> None:
    (folder / "link.raw").symlink_to(folder.parent / "secret.raw")
    (folder / "up").symlink_to(folder.parent)
    (folder / name).write_text(HEADERS[name](data.format(secret=folder.parent / "secret.raw")), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name}: its data file: expected the name of a file below"):
        read_volume(folder / name)


@every_header
@pytest.mark.parametrize("data", ["slice%d.raw 0 1 1", "-", "%s%s%s%n 0 1 1"])
def test_patterns_and_standard_input_are_refused(name: str, data: str, folder: Path) -> None:
    (folder / name).write_text(HEADERS[name](data), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name}: expected the name of its data file"):
        check_data_files(str(folder / name))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.nhdr", "datafile: /secret.raw"),
        ("a.nhdr", "Data File: /secret.raw"),
        ("a.nhdr", "data file: a.raw\r\ndata file: /secret.raw"),
        ("a.mhd", "ElementDataFile=/secret.raw"),
        ("a.mhd", "ElementDataFile : /secret.raw"),
        ("a.mhd", "ElementDataFile\n= /secret.raw"),
        ("a.mhd", "ElementDataFile = LOCAL\nElementDataFile = /secret.raw"),
        ("a.mhd", "Comment = x\rElementDataFile = /secret.raw"),
    ],
)
def test_no_other_way_to_write_the_field_gets_through(name: str, line: str, folder: Path) -> None:
    text = HEADERS[name]("X").splitlines()
    (folder / name).write_bytes(("\n".join([*text[:-1], line]) + "\n").encode())
    with pytest.raises(ValueError, match="its data file"):
        check_data_files(str(folder / name))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii", ".vtk", ".gipl", ".png", ".tif"])
def test_a_file_that_holds_its_voxels_is_taken(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS[0] if suffix == ".png" else VOXELS), str(path))
    check_data_files(str(path))


def test_a_pair_is_read_unless_its_voxels_are_a_link_to_elsewhere(folder: Path) -> None:
    nib.save(nib.Nifti1Pair(VOXELS, np.eye(4)), folder / "p.img")
    assert np.array_equal(read_volume(folder / "p.hdr")[0][0], VOXELS)
    shutil.move(folder / "p.img", folder.parent / "p.img")
    (folder / "p.img").symlink_to(folder.parent / "p.img")
    with pytest.raises(ValueError, match=r"p.hdr: its data file: expected .* got 'p.img'"):
        read_volume(folder / "p.hdr")


@pytest.mark.skipif(os.name == "nt", reason="Windows asks for the right to make links")
def test_a_users_own_link_to_an_image_is_fine(folder: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(folder.parent / "own.nrrd"))
    (folder / "own.nrrd").symlink_to(folder.parent / "own.nrrd")
    assert np.array_equal(read_volume(folder / "own.nrrd")[0][0].T, VOXELS)


@pytest.mark.parametrize(("suffix", "kind"), [(".hdf5", "HDF5"), (".mnc", "MINC")])
def test_a_format_that_follows_names_in_its_own_ways_is_refused(suffix: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.astype(np.float32)), str(path))
    with pytest.raises(ValueError, match=f"a{suffix}: {kind} files may name other files; convert it"):
        read_volume(path)


def test_a_stimulate_header_is_refused(folder: Path) -> None:
    text = f"numDim: 3\ndim: 4 3 2\ndataType: BYTE\nstimFileName: {folder.parent / 'secret.raw'}\n"
    (folder / "a.spr").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="Stimulate files may name other files"):
        read_volume(folder / "a.spr")
