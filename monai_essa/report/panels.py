# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Figures of slices, which need matplotlib: reconstructions, segmentations over their images, and their planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_essa.outside import math_free
from monai_essa.report.charts import COLOURS, TEXT_SIZE, WIDTH, blank_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Plane",
    "SegmentationCase",
    "display_planes",
    "intensity_window",
    "overlay_figure",
    "reconstruction_panel",
    "segmentations",
    "to_grey",
]


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


def overlay_figure(case: SegmentationCase, classes: Sequence[str]) -> Figure:
    """Draw one case in the planes through the middle of its label: the image, then label and prediction over it.

    Args:
        case: a volume (x, y, z), shown in three planes, or an image (x, y). A label that is all background is drawn
            through the middle of the prediction, or else of the image.
        classes: names of the classes 1, 2, ...; at most seven.

    Returns:
        The figure: a column for each plane of a volume, and a single row for an image.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there are more classes than colours.

    Example:
        >>> label = np.zeros((8, 8, 4), dtype=int)
        >>> label[2:5, 2:5, 1] = 1
        >>> case = SegmentationCase("case 1", np.random.default_rng(0).normal(size=label.shape), label, label)
        >>> len(overlay_figure(case, ["spleen"]).axes)
        9
    """
    if not 1 <= len(classes) <= len(COLOURS):
        raise ValueError(f"expected 1 to {len(COLOURS)} classes, got {len(classes)}")
    position = _middle(case.label if (case.label > 0).any() else case.prediction)
    spacing = tuple(case.spacing)[: case.image.ndim]
    maps = [display_planes(values, spacing, position) for values in (case.image, case.label, case.prediction)]
    low, high = intensity_window(case.image)
    figure, grid = _grid_of_planes(maps[0])
    for row, (title, planes) in enumerate(zip(("image", "label", "prediction"), maps, strict=True)):
        for column, plane in enumerate(planes):
            axes = grid[row, column] if len(planes) > 1 else grid[0, row]
            _show(axes, maps[0][column], cmap="gray", vmin=low, vmax=high)
            axes.set_anchor("N")
            if row:
                _overlay(axes, plane, len(classes))
            if len(planes) == 1:
                axes.set_title(title, fontsize=TEXT_SIZE)
            elif column == 0:
                axes.set_ylabel(title, fontsize=TEXT_SIZE)
            if len(planes) > 1 and row == 0:
                axes.set_title(plane.name, fontsize=TEXT_SIZE)
    figure.suptitle(math_free(case.title), fontsize=TEXT_SIZE)
    _class_legend(figure, classes)
    return figure


@dataclass(frozen=True)
class Plane:
    """One slice as a picture, top row first.

    Args:
        name: axial, coronal or sagittal; "image" for a 2-D image.
        pixels: values, (rows, columns).
        pixel_size: height and width of a pixel in mm.
    """

    name: str
    pixels: np.ndarray
    pixel_size: tuple[float, float]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width in mm."""
        rows, columns = self.pixels.shape
        return rows * self.pixel_size[0], columns * self.pixel_size[1]


def display_planes(
    image: np.ndarray, spacing: Sequence[float] | None = None, position: Sequence[int] | None = None
) -> tuple[Plane, ...]:
    """Cut an image for display.

    A volume is taken as RAS (the bundles' orientation) and shown in the radiological convention: the patient's right
    on the left of the axial and coronal planes, anterior on the left of the sagittal plane, superior or anterior up.
    A 2-D image is shown as MONAI reads pictures: first axis to the right, second axis down.

    Args:
        image: one channel, (x, y) or (x, y, z).
        spacing: voxel size in mm, one per axis; default 1 mm.
        position: voxel that the planes go through; default the middle.

    Returns:
        Axial, coronal and sagittal plane of a volume, or the one plane of a 2-D image.

    Raises:
        ValueError: if the image is not 2-D or 3-D, or ``spacing`` or ``position`` does not fit it.

    Example:
        >>> [(plane.name, plane.pixels.shape) for plane in display_planes(np.zeros((4, 5, 6)))]
        [('axial', (5, 4)), ('coronal', (6, 4)), ('sagittal', (6, 5))]
    """
    if image.ndim not in (2, 3):
        raise ValueError(f"expected one channel of a 2-D or 3-D image, got shape {image.shape}")
    size = _one_per_axis("spacing", (1.0,) * image.ndim if spacing is None else spacing, image)
    if image.ndim == 2:
        return (Plane("image", image.T, (size[1], size[0])),)

    middle = [extent // 2 for extent in image.shape]
    x, y, z = _one_per_axis("position", middle if position is None else position, image)
    return (
        Plane("axial", image[::-1, ::-1, z].T, (size[1], size[0])),
        Plane("coronal", image[::-1, y, ::-1].T, (size[2], size[0])),
        Plane("sagittal", image[x, ::-1, ::-1].T, (size[2], size[1])),
    )


def intensity_window(image: np.ndarray) -> tuple[float, float]:
    """Compute percentiles 0.5 and 99.5 of the finite values, so that a few hot voxels do not darken the rest.

    Args:
        image: values of any shape.

    Returns:
        The values shown as black and as white; equal if the image is constant.

    Raises:
        ValueError: if no value is finite.
    """
    finite = image[np.isfinite(image)]
    if not finite.size:
        raise ValueError(f"the image of shape {image.shape} has no finite value to show")
    low, high = np.percentile(finite, (0.5, 99.5))
    return float(low), float(high)


def to_grey(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Map a window to 0 ... 255; NaN becomes black.

    Args:
        pixels: values of any shape.
        window: the values shown as black and as white.

    Returns:
        uint8 of the same shape; all black if the window is empty.
    """
    low, high = window
    width = high - low if high > low else np.inf
    share = np.clip((np.nan_to_num(pixels.astype(np.float64), nan=low) - low) / width, 0.0, 1.0)
    return np.rint(share * 255.0).astype(np.uint8)


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


def _grid_of_planes(planes: Sequence[Plane]) -> tuple[Figure, np.ndarray]:
    """Return axes without ticks, (3 maps, 3 planes at one scale) of a volume and (1, 3 maps) of an image."""
    columns = planes if len(planes) > 1 else [planes[0]] * 3
    rows = len(planes)
    widths = [plane.size_mm[1] for plane in columns]
    height_mm = max(plane.size_mm[0] for plane in columns)
    figure = blank_figure(height=rows * height_mm * (WIDTH - 0.5) / sum(widths) + 0.9)
    grid = figure.subplots(rows, 3, squeeze=False, width_ratios=widths)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return figure, grid


def _middle(label: np.ndarray) -> list[int]:
    """Return the voxel in the middle of what is labelled, on the slice of each axis that holds most of it."""
    there = label > 0
    if not there.any():
        return [extent // 2 for extent in label.shape]
    others = [tuple(other for other in range(label.ndim) if other != axis) for axis in range(label.ndim)]
    return [int(there.sum(axis=rest).argmax()) for rest in others]


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


def _one_per_axis(name: str, values: Sequence, image: np.ndarray) -> Sequence:
    if len(values) != image.ndim:
        raise ValueError(f"{name} {tuple(values)} has {len(values)} values, expected {image.ndim}, one per axis")
    return values
