# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the metadata of volumes and the distance between affines."""

from __future__ import annotations

import numpy as np
import pytest

from monai_essa.data.readers.volume import corner_shift, in_ras_order, make_volume, ras_size, stack_channels


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


def test_sizes_are_along_the_axes_of_the_body() -> None:
    affine = np.eye(4)
    affine[:3, :3] = [[0.1, 0, -3.0], [-0.5, 0.1, 0], [0, 2.0, 0.1]]  # x to posterior, y to superior, z to left
    np.testing.assert_array_equal(in_ras_order(affine, [1, 2, 3]), [3, 1, 2])
    sides = [10 * np.hypot(0.1, 0.5), 20 * np.hypot(0.1, 2.0), 30 * np.hypot(3.0, 0.1)]
    np.testing.assert_allclose(ras_size(affine, (10, 20, 30)), [sides[2], sides[0], sides[1]])


def test_a_picture_has_no_size_along_the_axis_that_it_lacks() -> None:
    np.testing.assert_array_equal(ras_size(np.diag([2.0, 3.0, 1.0, 1.0]), (10, 20)), [20, 60, 0])


@pytest.mark.parametrize(
    ("shape", "coloured", "spatial", "channel"),
    [
        ((4, 5), False, (4, 5), None),
        ((4, 5, 3), True, (4, 5), -1),
        ((4, 5, 6), False, (4, 5, 6), None),
        ((4, 5, 6, 2), False, (4, 5, 6), -1),
        ((4, 5, 6, 2, 1, 1), False, (4, 5, 6), -1),
        ((4, 5, 1), False, (4, 5, 1), None),
    ],
)
def test_what_lies_behind_space_are_channels(
    shape: tuple[int, ...], coloured: bool, spatial: tuple[int, ...], channel: int | None
) -> None:
    volume = make_volume("a.nii", np.ones(shape), np.eye(4), coloured)
    assert (volume.spatial_shape, volume.channel) == (spatial, channel)


@pytest.mark.parametrize("shape", [(4, 5, 6, 1, 3), (4, 5, 0), (4,), ()])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^a\.nii: expected .* got .*\("):
        make_volume("a.nii", np.ones(shape), np.eye(4))


@pytest.mark.parametrize(
    ("given", "taken"), [(np.bool_, np.uint8), (">i2", np.int16), (">f8", np.float64), (np.longdouble, np.float64)]
)
def test_numbers_are_those_that_torch_takes(given: type, taken: type) -> None:
    array = make_volume("a", np.ones((2, 3), given), np.eye(4)).array
    assert array.dtype == taken and array.dtype.isnative and array.sum() == 6


@pytest.mark.parametrize("given", [np.complex64, "S3", np.dtype([("a", "u1")])])
def test_what_is_no_real_number_is_refused(given: type) -> None:
    with pytest.raises(ValueError, match=r"^a: expected real numbers, got voxels of type"):
        make_volume("a", np.zeros((2, 3), given), np.eye(4))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e9])
def test_an_affine_that_places_nothing_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^a: expected an affine that places the voxels, got"):
        make_volume("a", np.ones((2, 3, 4)), np.diag([1, value, 1, 1]))


def test_an_affine_whose_axes_lie_in_one_plane_is_refused() -> None:
    affine = np.eye(4)
    affine[:3, 2] = [0.6, 0.8, 0]
    with pytest.raises(ValueError, match=r"^a: .* axes that lie in one plane"):
        make_volume("a", np.ones((2, 3, 4)), affine)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_a_slice_without_a_thickness_is_one_millimetre_thick(shape: tuple[int, ...]) -> None:
    affine = np.diag([2.0, -3.0, 0.0, 1.0])
    volume = make_volume("a", np.ones(shape), affine)
    assert np.allclose(volume.affine, np.diag([2.0, -3.0, -1.0, 1.0]))
    assert volume.notes == ("the slice has no thickness: 1 mm is taken",)


def test_a_single_volume_is_returned_as_it_is() -> None:
    volume = make_volume("a", np.ones((2, 3, 4)), np.eye(4))
    assert stack_channels([volume], ["a"]) is volume


def test_channels_of_other_shapes_are_refused() -> None:
    volumes = [make_volume("a", np.ones(shape), np.eye(4)) for shape in [(2, 3, 4), (2, 3, 5)]]
    with pytest.raises(ValueError, match=r"^b: expected shape and position of its first channel a"):
        stack_channels(volumes, ["a", "b"])


def test_channels_are_not_stacked_on_channels() -> None:
    volumes = [make_volume("a", np.ones((2, 3, 4, 2)), np.eye(4))] * 2
    with pytest.raises(ValueError, match=r"^a: expected one channel in each of 2 files, got 2"):
        stack_channels(volumes, ["a", "b"])


def test_notes_of_all_channels_are_kept_once() -> None:
    volumes = [make_volume("a", np.ones((2, 3)), np.eye(4), notes=notes) for notes in [("x",), ("x", "y")]]
    assert stack_channels(volumes, ["a", "b"]).notes == ("x", "y")
