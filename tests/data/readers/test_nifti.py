# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for NIfTI headers: units of length, orientation codes, and what MONAI's own reader makes of the same file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.transforms import LoadImaged

from monai_essa.data.check.volumes import volume_facts
from monai_essa.data.readers.nifti import read_nifti

VOXELS = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


def saved(path: Path, affine: np.ndarray | None, unit: str = "mm") -> nib.Nifti1Image:
    image = nib.Nifti1Image(VOXELS, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return image


def millimetres(path: Path) -> list[float]:
    return np.linalg.norm(read_nifti(str(path)).affine[:3, :3], axis=0).tolist()


@pytest.mark.parametrize(("unit", "size"), [("micron", 500.0), ("meter", 0.0005), ("mm", 0.5), ("unknown", 0.5)])
def test_spacing_and_position_are_in_millimetres_whatever_the_unit(unit: str, size: float, tmp_path: Path) -> None:
    affine = np.diag([size, -2 * size, size, 1.0])
    affine[:3, 3] = [10 * size, 0, size]
    saved(tmp_path / "a.nii", affine, unit)
    volume = read_nifti(str(tmp_path / "a.nii"))
    assert np.allclose(volume.affine, [[0.5, 0, 0, 5], [0, -1, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 1]])
    itk = sitk.ReadImage(str(tmp_path / "a.nii"))
    assert np.allclose(itk.GetSpacing(), millimetres(tmp_path / "a.nii"))


def test_a_converted_unit_is_said_in_the_facts(tmp_path: Path) -> None:
    saved(tmp_path / "a.nii", np.diag([500.0, 500, 500, 1]), "micron")
    facts = volume_facts(tmp_path / "a.nii")
    assert facts.spacing == (0.5, 0.5, 0.5)
    assert facts.notes == ("the header is in micrometres, converted to mm",)


def test_a_unit_that_does_not_exist_is_said(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, np.eye(4))
    image.header["xyzt_units"] = 5
    nib.save(image, tmp_path / "a.nii")
    volume = read_nifti(str(tmp_path / "a.nii"))
    assert np.array_equal(volume.affine, np.eye(4))
    assert volume.notes == ("the header is in an unknown unit: millimetres are taken",)


def test_a_usual_file_has_no_notes(tmp_path: Path) -> None:
    image = saved(tmp_path / "a.nii", np.eye(4))
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "b.nii")
    assert volume_facts(tmp_path / "a.nii").notes == volume_facts(tmp_path / "b.nii").notes == ()


def test_codes_of_zero_are_said(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, None)
    image.header.set_zooms((1, 1, 3))
    nib.save(image, tmp_path / "a.nii")
    assert millimetres(tmp_path / "a.nii") == [1, 1, 3]
    assert read_nifti(str(tmp_path / "a.nii")).notes == ("sform and qform codes are 0: the orientation is a guess",)


def test_a_qform_that_contradicts_the_sform_is_said(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, np.diag([-1.0, -1, 1, 1]))
    image.set_sform(np.diag([-1.0, -1, 1, 1]), 1)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "a.nii")
    volume = read_nifti(str(tmp_path / "a.nii"))
    assert np.array_equal(volume.affine, np.diag([-1.0, -1, 1, 1]))
    assert volume.notes == ("sform and qform place the voxels differently: the sform is taken",)


@pytest.mark.parametrize(("sform_size", "qform_size"), [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0)])
def test_sform_and_qform_are_chosen_as_monai_does(sform_size: float, qform_size: float, tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, np.eye(4))
    image.set_qform(np.diag([qform_size, qform_size, -qform_size, 1]), 1)  # sets the spacing of the header, too
    image.set_sform(np.diag([sform_size, -sform_size, sform_size, 1]), 2)
    nib.save(image, tmp_path / "a.nii")
    theirs = LoadImaged(keys="image")({"image": str(tmp_path / "a.nii")})["image"]
    volume = read_nifti(str(tmp_path / "a.nii"))
    assert np.allclose(volume.affine, theirs.affine)
    taken = "sform" if sform_size == qform_size else "qform"
    assert volume.notes == (f"sform and qform place the voxels differently: the {taken} is taken",)


def test_an_analyze_file_says_that_left_and_right_are_a_guess(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(VOXELS, None), tmp_path / "a.hdr")
    assert "does not tell left from right" in read_nifti(str(tmp_path / "a.hdr")).notes[0]


def test_colours_are_channels_in_their_order(tmp_path: Path) -> None:
    colours = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"], colours["G"], colours["B"] = 1, 2, 3
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "a.nii")
    volume = read_nifti(str(tmp_path / "a.nii"))
    assert volume.array.shape == (3, 4, 5, 3) and volume.array[0, 0, 0].tolist() == [1, 2, 3]
