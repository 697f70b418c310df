# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.studies import label_problem

SHAPE = (8, 9, 10)
AFFINE = np.diag([-1.0, -2.0, 3.0, 1.0])
AFFINE[:3, 3] = (4, 5, 6)


def nifti(path: Path, shape: tuple[int, ...] = SHAPE, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), affine), path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return nifti(tmp_path / "image.nii.gz")


def test_a_label_of_another_format_lies_on_the_same_voxels(image: Path, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(image)), str(tmp_path / "label.nrrd"))  # as 3D Slicer may send it
    assert label_problem(tmp_path / "label.nrrd", image, "label") is None
    assert label_problem(image, tmp_path / "label.nrrd", "label") is None


def test_rounding_of_a_header_is_no_other_place(image: Path, tmp_path: Path) -> None:
    assert label_problem(nifti(tmp_path / "a.nii", affine=AFFINE + 1e-4), image, "label") is None


@pytest.mark.parametrize(
    ("shape", "affine", "reason"),
    [
        ((9, 8, 10), AFFINE, r"expected the shape of image.nii.gz, \(8, 9, 10\), got \(9, 8, 10\)"),
        (SHAPE[:2], AFFINE, "expected the shape"),
        (
            SHAPE,
            np.diag([1.0, 2.0, 3.0, 1.0]),
            r"expected the place of image.nii.gz, got an affine .* shapes \(8, 9, 10\)",
        ),
        (SHAPE, AFFINE * np.array([[1.1], [1], [1], [1]]), "expected the place"),
        ((*SHAPE, 3), AFFINE, "expected one channel, got 3"),
    ],
)
def test_a_label_elsewhere_is_said(
    image: Path, tmp_path: Path, shape: tuple[int, ...], affine: np.ndarray, reason: str
) -> None:
    problem = label_problem(nifti(tmp_path / "a.nii.gz", shape, affine), image, "label of case")
    assert problem is not None
    assert re.match(f"label of case: {reason}", problem)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x1f\x8b cut off"])
def test_what_is_no_label_is_said(image: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    problem = label_problem(tmp_path / "a.nii.gz", image, "label of case")
    assert problem is not None
    assert problem.startswith("label of case: cannot be read as a label of image.nii.gz")
    assert "\n" not in problem
