# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the metadata of volumes and the distance between affines."""

from __future__ import annotations

import numpy as np
import pytest

from monai_essa.data.volume_meta import corner_shift, stack_channels, volume_meta


def test_equal_affines_have_no_shift() -> None:
    assert corner_shift((5, 6, 7), np.eye(4), np.eye(4)) == 0.0


def test_shift_is_measured_in_the_smallest_voxel() -> None:
    affine = np.diag([0.5, 1.0, 2.0, 1.0])
    moved = affine.copy()
    moved[2, 3] = 1.0  # one millimetre is two voxels of 0.5 mm
    assert corner_shift((5, 6, 7), affine, moved) == pytest.approx(2.0)


def test_shift_grows_with_the_field_of_view() -> None:
    turned = np.eye(4)
    turned[0, 0], turned[0, 1] = 1.0, 0.01
    assert corner_shift((10, 101, 10), np.eye(4), turned) == pytest.approx(1.0)


@pytest.mark.parametrize(("shape", "spatial"), [((4, 5), 2), ((4, 5, 6), 3), ((4, 5, 6, 2), 3)])
def test_the_fourth_dimension_is_channels(shape: tuple[int, ...], spatial: int) -> None:
    meta = volume_meta("a.nii", shape, np.eye(4))
    assert meta["spatial_shape"].tolist() == list(shape[:spatial])
    assert (meta["original_channel_dim"] == -1) is (len(shape) == 4)


def test_five_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.nii: .* got 5-D \(4, 5, 6, 1, 3\)"):
        volume_meta("a.nii", (4, 5, 6, 1, 3), np.eye(4))


def test_a_single_volume_is_returned_as_it_is() -> None:
    array = np.ones((2, 3, 4))
    assert stack_channels([(array, volume_meta("a", array.shape, np.eye(4)))], ["a"])[0] is array


def test_channels_of_other_shapes_are_refused() -> None:
    volumes = [(np.ones(shape), volume_meta("a", shape, np.eye(4))) for shape in [(2, 3, 4), (2, 3, 5)]]
    with pytest.raises(ValueError, match=r"^b: expected shape and position of its first channel a"):
        stack_channels(volumes, ["a", "b"])
