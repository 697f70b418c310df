# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Figures of slices: what is drawn is read back from the figure."""

from __future__ import annotations

import numpy as np
import pytest

from monai_essa.report.charts import figure_png
from monai_essa.report.panels import SegmentationCase, reconstruction_panel, segmentations

pytest.importorskip("matplotlib", reason="figures need the extra [report]")


def _volume(shape: tuple[int, ...] = (8, 12, 6)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def _case() -> SegmentationCase:
    """Class 1 lies in slices 1 and 4, with most voxels in slice 4; the prediction finds class 2 there."""
    label = np.zeros((8, 12, 6), dtype=int)
    label[1, 1, 1] = 1
    label[2:6, 2:6, 4] = 1
    return SegmentationCase("case 7", _volume(), label, label * 2, spacing=(1.0, 1.0, 3.0))


def test_rows_are_planes_and_columns_say_what_is_seen() -> None:
    figure = reconstruction_panel(_volume(), _volume() * 0.5, _volume())

    assert [axes.get_title() for axes in figure.axes[:3]] == ["original", "masked", "reconstructed"]
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["axial", "coronal", "sagittal"]
    assert figure_png(figure).startswith(b"\x89PNG")


def test_all_pictures_share_the_grey_scale_of_the_original() -> None:
    figure = reconstruction_panel(_volume(), _volume() * 100, _volume() - 50)

    assert len({axes.images[0].get_clim() for axes in figure.axes}) == 1


def test_pictures_keep_their_proportions_in_millimetres() -> None:
    figure = reconstruction_panel(*[_volume()] * 3, spacing=(1.0, 1.0, 3.0))

    coronal = figure.axes[3]
    assert coronal.images[0].get_extent() == [0, 8, 18, 0]
    assert coronal.get_aspect() == 1.0


def test_a_picture_makes_one_row_without_a_plane_name() -> None:
    figure = reconstruction_panel(*[_volume((8, 12))] * 3)

    assert len(figure.axes) == 3
    assert figure.axes[0].get_ylabel() == ""


def test_segmentations_are_shown_where_most_of_the_label_is() -> None:
    image, label, prediction = segmentations([_case()], ["gray", "white"]).axes

    assert [len(axes.images) for axes in (image, label, prediction)] == [1, 2, 2]
    overlay = label.images[1].get_array()
    assert (overlay.count(), set(overlay.compressed())) == (16, {1})
    assert set(prediction.images[1].get_array().compressed()) == {2}
    assert image.get_ylabel() == "case 7"


def test_a_class_has_the_colour_of_the_legend() -> None:
    figure = segmentations([_case()], ["gray", "white"])
    label, prediction = (axes.images[1] for axes in figure.axes[1:])
    legend = [patch.get_facecolor() for patch in figure.legends[0].get_patches()]

    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["gray", "white"]
    assert [label.to_rgba(1)[:3], prediction.to_rgba(2)[:3]] == [colour[:3] for colour in legend]


@pytest.mark.parametrize(("cases", "classes"), [(0, 2), (1, 8)])
def test_nothing_to_show_or_too_many_classes_is_refused(cases: int, classes: int) -> None:
    with pytest.raises(ValueError, match=f"expected cases and 1 to 7 classes, got {cases} and {classes}"):
        segmentations([_case()] * cases, ["class"] * classes)


def test_a_name_is_drawn_as_it_is(odd_name: str) -> None:
    label = np.zeros((8, 8, 4), dtype=int)
    label[2:5, 2:5, 1] = 1
    case = SegmentationCase(odd_name, np.random.default_rng(0).normal(size=label.shape), label, label)
    figure_png(segmentations([case], [odd_name]))
