# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""From a volume to pictures: orthogonal planes the way a reading room hangs them, and one grey scale for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Plane", "display_planes", "intensity_window", "to_grey"]


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


def _one_per_axis(name: str, values: Sequence, image: np.ndarray) -> Sequence:
    if len(values) != image.ndim:
        raise ValueError(f"{name} {tuple(values)} has {len(values)} values, expected {image.ndim}, one per axis")
    return values
