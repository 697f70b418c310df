# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the facts of a volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_essa.data.check.volumes import volume_facts

NiftiWriter = Callable[..., Path]


def test_geometry_is_that_of_the_header(tmp_path: Path, write_nifti: NiftiWriter) -> None:
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    facts = volume_facts(write_nifti(tmp_path / "a.nii", array, np.diag([-0.5, 2.0, 3.0, 1.0])))
    assert (facts.channels, facts.shape, facts.spacing, facts.orientation) == (1, (3, 4, 5), (0.5, 2.0, 3.0), "LAS")
    assert (facts.minimum, facts.maximum) == (0.0, 59.0)
    assert (facts.low, facts.high) == pytest.approx(np.percentile(array, [0.5, 99.5]))


def test_broken_voxels_are_counted_and_left_out(tmp_path: Path, write_nifti: NiftiWriter) -> None:
    array = np.ones((3, 4, 5), np.float32)
    array[0, 0, :3] = [np.nan, np.inf, 7.0]
    facts = volume_facts(write_nifti(tmp_path / "a.nii", array))
    assert (facts.broken, facts.minimum, facts.maximum) == (2, 1.0, 7.0)


def test_a_volume_of_nan_has_facts(tmp_path: Path, write_nifti: NiftiWriter) -> None:
    assert volume_facts(write_nifti(tmp_path / "a.nii", np.full((2, 2, 2), np.nan, np.float32))).broken == 8


def test_values_are_listed_on_request(tmp_path: Path, write_nifti: NiftiWriter) -> None:
    path = write_nifti(tmp_path / "a.nii", np.array([0, 2, 2, 5], np.uint8).reshape(2, 2, 1))
    assert volume_facts(path, count_values=True).values == (0, 2, 5)
    assert volume_facts(path).values == ()


def test_a_map_of_too_many_values_lists_none(tmp_path: Path, write_nifti: NiftiWriter) -> None:
    array = np.arange(512, dtype=np.float32).reshape(8, 8, 8)
    assert volume_facts(write_nifti(tmp_path / "a.nii", array), count_values=True).values == ()


def test_the_digest_is_of_the_voxels_alone(tmp_path: Path, write_nifti: NiftiWriter) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    same = write_nifti(tmp_path / "a.nii", array), write_nifti(tmp_path / "b.nii.gz", array.astype(np.float32))
    other = write_nifti(tmp_path / "c.nii", array[::-1])
    assert volume_facts(same[0]).digest == volume_facts(same[1]).digest
    assert volume_facts(same[0]).digest != volume_facts(other).digest


def test_an_empty_volume_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((0, 4, 5), np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"a\.nii: "):
        volume_facts(tmp_path / "a.nii")
