# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A patch is set against the scans along the body's axes, whatever the order of a file's axes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_essa.engines.progress import patch_introduction


def scan(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> dict[str, str]:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), affine), path)
    return {"image": str(path)}


def test_the_share_is_of_the_volume(tmp_path: Path) -> None:
    items = [scan(tmp_path / "a.nii.gz", (40, 20, 10), np.diag([1.0, 2.0, 4.0, 1.0]))]
    line = patch_introduction([20, 20, 20], [1.0, 1.0, 1.0], items)
    assert line == "patch: 20 x 20 x 20 mm, holds 12% of the median scan (40 x 40 x 40 mm; 1 scan read)"


def test_spacing_makes_a_patch_larger(tmp_path: Path) -> None:
    items = [scan(tmp_path / "a.nii.gz", (40, 40, 40), np.eye(4))]
    assert patch_introduction([20, 20, 20], [2.0, 2.0, 1.0], items).startswith("patch: 40 x 40 x 20 mm, holds 50% of")


def test_a_patch_larger_than_the_scan_holds_no_more_than_all_of_it(tmp_path: Path) -> None:
    items = [scan(tmp_path / "a.nii.gz", (10, 10, 10), np.eye(4))]
    assert "holds 100% of" in patch_introduction([96, 96, 96], [1.0, 1.0, 1.0], items)


@pytest.mark.parametrize("axes", ["PSR", "LIA", "RAS"])
def test_the_order_of_the_axes_in_the_file_does_not_matter(axes: str, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((40, 30, 20), np.uint8), np.diag([1.0, 2.0, 3.0, 1.0]))
    to = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes))
    nib.save(image.as_reoriented(to), tmp_path / "a.nii.gz")
    line = patch_introduction([20, 20, 20], [1.0, 1.0, 1.0], [{"image": str(tmp_path / "a.nii.gz")}])
    assert "(40 x 60 x 60 mm; 1 scan read)" in line


def test_of_many_scans_some_are_read_and_their_median_counts(tmp_path: Path) -> None:
    small, large = (
        scan(tmp_path / "a.nii.gz", (10, 10, 10), np.eye(4)),
        scan(tmp_path / "b.nii.gz", (30,) * 3, np.eye(4)),
    )
    assert "(20 x 20 x 20 mm; 2 scans read)" in patch_introduction([8, 8, 8], [1.0, 1.0, 1.0], [small, large])
    assert "(10 x 10 x 10 mm; 20 scans read)" in patch_introduction([8, 8, 8], [1.0, 1.0, 1.0], [small] * 39 + [large])


def test_images_in_two_dimensions_have_two(tmp_path: Path) -> None:
    items = [scan(tmp_path / "a.nii.gz", (40, 20), np.eye(4))]
    assert patch_introduction([20, 20], [1.0, 1.0], items).startswith(
        "patch: 20 x 20 mm, holds 50% of the median scan (40 x 20 mm;"
    )
