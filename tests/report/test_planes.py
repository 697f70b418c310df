# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Planes: orientation against single marked voxels, the grey scale against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from monai_essa.report.panels import display_planes, intensity_window, to_grey

SHAPE = (4, 6, 8)


def _marked(*voxel: int) -> dict[str, tuple[int, int]]:
    """Row and column at which one bright voxel of a RAS volume appears, by plane."""
    volume = np.zeros(SHAPE)
    volume[voxel] = 1.0
    planes = display_planes(volume, position=voxel)
    return {plane.name: tuple(int(i) for i in np.argwhere(plane.pixels == 1.0)[0]) for plane in planes}


def test_right_is_shown_left_and_superior_and_anterior_up() -> None:
    right_anterior_superior = _marked(3, 5, 7)

    assert right_anterior_superior == {"axial": (0, 0), "coronal": (0, 0), "sagittal": (0, 0)}


def test_left_posterior_inferior_is_the_opposite_corner() -> None:
    assert _marked(0, 0, 0) == {"axial": (5, 3), "coronal": (7, 3), "sagittal": (7, 5)}


def test_planes_go_through_the_middle_unless_told() -> None:
    volume = np.zeros(SHAPE)
    volume[2, 3, 4] = 1.0

    assert all(plane.pixels.max() == 1.0 for plane in display_planes(volume))
    assert all(plane.pixels.max() == 0.0 for plane in display_planes(volume, position=(0, 0, 0)))


def test_pixel_sizes_follow_the_axes_shown() -> None:
    axial, coronal, sagittal = display_planes(np.zeros(SHAPE), spacing=(1.0, 2.0, 5.0))

    assert (axial.pixel_size, coronal.pixel_size, sagittal.pixel_size) == ((2.0, 1.0), (5.0, 1.0), (5.0, 2.0))
    assert coronal.size_mm == (40.0, 4.0)


def test_a_picture_keeps_first_axis_across_and_second_down() -> None:
    (plane,) = display_planes(np.arange(6.0).reshape(3, 2), spacing=(1.0, 4.0))

    np.testing.assert_array_equal(plane.pixels, [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]])
    assert plane.pixel_size == (4.0, 1.0)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 4, 4, 4), {}, r"expected one channel of a 2-D or 3-D image, got shape \(1, 4, 4, 4\)"),
        ((4, 4, 4), {"spacing": (1.0, 1.0)}, "spacing .* has 2 values, expected 3"),
        ((4, 4, 4), {"position": (1,)}, "position .* has 1 values, expected 3"),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        display_planes(np.zeros(shape), **options)


def test_a_hot_voxel_does_not_set_the_window() -> None:
    image = np.linspace(0.0, 1.0, 1000)
    image[7] = 1e6

    low, high = intensity_window(image)
    assert 0.0 <= low < 0.01
    assert 0.99 < high <= 1.0


def test_window_ignores_what_is_not_finite() -> None:
    assert intensity_window(np.array([np.nan, 3.0, np.inf])) == (3.0, 3.0)
    with pytest.raises(ValueError, match="no finite value"):
        intensity_window(np.full(4, np.nan))


def test_grey_is_linear_within_the_window_and_clipped_outside() -> None:
    values = np.array([-5.0, 0.0, 5.0, 10.0, 99.0, np.nan, np.inf])

    np.testing.assert_array_equal(to_grey(values, (0.0, 10.0)), [0, 0, 128, 255, 255, 0, 255])


def test_an_empty_window_is_black() -> None:
    np.testing.assert_array_equal(to_grey(np.array([3.0, 3.0]), (3.0, 3.0)), [0, 0])
