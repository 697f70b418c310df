# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Figures of slices: reconstructions, and segmentations beside their labels. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_essa.outside import math_free
from monai_essa.report.charts import COLOURS, TEXT_SIZE, WIDTH, blank_figure
from monai_essa.report.planes import Plane, display_planes, intensity_window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SegmentationCase", "reconstruction_panel", "segmentations"]


@dataclass(frozen=True)
class SegmentationCase:
    """One volume to show with its label and its prediction.

    Args:
        title: the case, for example ``"demoB_022, Dice 0.84 / 0.79"``.
        image: RAS volume (x, y, z).
        label: classes 0, 1, ..., same shape.
        prediction: classes 0, 1, ..., same shape.
        spacing: voxel size in mm.
    """

    title: str
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    spacing: Sequence[float] = (1.0, 1.0, 1.0)


def reconstruction_panel(
    original: np.ndarray, masked: np.ndarray, prediction: np.ndarray, spacing: Sequence[float] | None = None
) -> Figure:
    """Draw original, masked and reconstructed image in three planes, all on the grey scale of the original.

    Args:
        original: one channel of the image before masking, (x, y) or RAS (x, y, z).
        masked: the same with masked patches blanked, same shape.
        prediction: the reconstruction, same shape.
        spacing: voxel size in mm, one per axis; default 1 mm.

    Returns:
        The figure: one row per plane.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if an image is not 2-D or 3-D, or holds no finite value.

    Example:
        >>> volume = np.random.default_rng(0).normal(size=(16, 24, 16))
        >>> len(reconstruction_panel(volume, volume * 0.5, volume).axes)
        9
    """
    columns = {"original": original, "masked": masked, "reconstructed": prediction}
    planes = {title: display_planes(image, spacing) for title, image in columns.items()}
    window = intensity_window(original)
    figure, grid = _grid(planes["original"], columns=len(columns))
    for column, (title, pictures) in enumerate(planes.items()):
        for row, plane in enumerate(pictures):
            _show(grid[row, column], plane, cmap="gray", vmin=window[0], vmax=window[1])
            if column == 0 and len(pictures) > 1:
                grid[row, column].set_ylabel(plane.name, fontsize=TEXT_SIZE)
        grid[0, column].set_title(title, fontsize=TEXT_SIZE)
    return figure


def segmentations(cases: Sequence[SegmentationCase], classes: Sequence[str]) -> Figure:
    """Draw image, label and prediction of each case in the axial plane that holds most of the label.

    Args:
        cases: the volumes, one row each.
        classes: names of the classes 1, 2, ...; at most seven.

    Returns:
        The figure.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there is no case, or more classes than colours.

    Example:
        >>> label = np.zeros((8, 8, 4), dtype=int)
        >>> label[2:5, 2:5, 1] = 1
        >>> case = SegmentationCase("case 1", np.random.default_rng(0).normal(size=label.shape), label, label)
        >>> len(segmentations([case], ["spleen"]).axes)
        3
    """
    if not cases or len(classes) > len(COLOURS):
        raise ValueError(f"expected cases and 1 to {len(COLOURS)} classes, got {len(cases)} and {len(classes)}")
    rows = [_axial_planes(case) for case in cases]
    figure, grid = _grid([planes[0] for planes in rows], columns=3)
    for case, planes, axes in zip(cases, rows, grid, strict=True):
        low, high = intensity_window(case.image)
        for ax, overlay in zip(axes, (None, planes[1], planes[2]), strict=True):
            _show(ax, planes[0], cmap="gray", vmin=low, vmax=high)
            if overlay is not None:
                _overlay(ax, overlay, len(classes))
        axes[0].set_ylabel(math_free(case.title), fontsize=TEXT_SIZE)
    for ax, title in zip(grid[0], ("image", "label", "prediction"), strict=True):
        ax.set_title(title, fontsize=TEXT_SIZE)
    _class_legend(figure, classes)
    return figure


def _grid(rows: Sequence[Plane], columns: int) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes, (rows, columns), without ticks, as high as the planes are at its width."""
    width_mm = max(plane.size_mm[1] for plane in rows)
    heights = [plane.size_mm[0] for plane in rows]
    inches_per_mm = (WIDTH - 0.4) / columns / width_mm
    figure = blank_figure(height=sum(heights) * inches_per_mm + 0.6)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return figure, grid


def _show(axes: Axes, plane: Plane, **colours: Any) -> None:
    height, width = plane.size_mm
    axes.imshow(plane.pixels, extent=(0, width, height, 0), interpolation="nearest", **colours)


def _axial_planes(case: SegmentationCase) -> list[Plane]:
    slice_areas = (case.label > 0).sum(axis=(0, 1))
    position = (0, 0, int(slice_areas.argmax()))
    return [display_planes(image, case.spacing, position)[0] for image in (case.image, case.label, case.prediction)]


def _overlay(axes: Axes, plane: Plane, classes: int) -> None:
    from matplotlib.colors import ListedColormap

    shown = np.ma.masked_equal(plane.pixels, 0)
    _show(axes, Plane(plane.name, shown, plane.pixel_size), cmap=ListedColormap(COLOURS[:classes]), alpha=0.55)
    axes.images[-1].set_clim(0.5, classes + 0.5)


def _class_legend(figure: Figure, classes: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=math_free(name)) for colour, name in zip(COLOURS, classes, strict=False)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=TEXT_SIZE)
