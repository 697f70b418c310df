# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Augmentation of the intensities of a view, as they vary between scanners of a modality."""

from __future__ import annotations

from typing import Any

import torch
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandomizableTransform,
    RandScaleIntensity,
    RandShiftIntensity,
    ScaleIntensityRange,
)

__all__ = ["RandSpeckle", "view_intensity"]


class RandSpeckle(RandomizableTransform):
    r"""Multiply an image by noise, as the speckle of ultrasound does: :math:`x (1 + \sigma n)`, n standard normal.

    Args:
        std: the largest deviation; each call draws its own between 0 and it.
        prob: share of the calls that add noise.

    Raises:
        ValueError: if the deviation is not above 0.

    Example:
        >>> speckle = RandSpeckle(std=0.2, prob=1.0).set_random_state(seed=0)
        >>> bool(speckle(torch.zeros(1, 4, 4)).any())  # black stays black
        False
    """

    def __init__(self, std: float = 0.2, prob: float = 0.5) -> None:
        super().__init__(prob)
        if std <= 0:
            raise ValueError(f"expected a deviation of the speckle above 0, got {std}")
        self.std = std

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Return the image (C, spatial...) with noise, or as it is."""
        self.randomize(None)
        if not self._do_transform:
            return img
        deviation = self.R.uniform(0, self.std)
        noise = torch.as_tensor(self.R.standard_normal(tuple(img.shape)), dtype=img.dtype, device=img.device)
        return img * (1 + deviation * noise)


def view_intensity(intensity_name: str) -> Compose:
    """Make the augmentation of a view by the name of its intensities.

    - MR (``mr...``): a bias field, a gamma from 0.7 to 1.5, noise.
    - CT (``ct...``): the window is moved and made wider or narrower by up to a fifth, and what leaves it is clipped.
    - Ultrasound (``us...``): speckle and a gamma.
    - Others, such as pictures: brightness and gamma.

    All have a slight blur in one view of ten.

    Args:
        intensity_name: as in the configs of the bundles: ``mr_0_to_1``, ``ct_lung``, ``us_0_to_1``, ``zscore``.

    Returns:
        A transform of images (C, spatial...), random by its own state.

    Example:
        >>> view_intensity("ct_lung").set_random_state(seed=0)(torch.rand(1, 8, 8, 8)).shape
        torch.Size([1, 8, 8, 8])
    """
    modality = intensity_name.partition("_")[0]
    gamma = RandAdjustContrast(prob=0.8, gamma=(0.7, 1.5))
    blur = RandGaussianSmooth(sigma_x=(0.25, 1.0), sigma_y=(0.25, 1.0), sigma_z=(0.25, 1.0), prob=0.1)
    by_modality: dict[str, list[Any]] = {
        "mr": [RandBiasField(coeff_range=(-0.1, 0.1), prob=0.5), gamma, RandGaussianNoise(prob=0.2, std=0.05)],
        "ct": [
            RandScaleIntensity(factors=0.2, prob=0.8),
            RandShiftIntensity(offsets=0.1, prob=0.8),
            ScaleIntensityRange(a_min=0.0, a_max=1.0, b_min=0.0, b_max=1.0, clip=True),
        ],
        "us": [RandSpeckle(), gamma],
    }
    return Compose([*by_modality.get(modality, [RandScaleIntensity(factors=0.2, prob=0.8), gamma]), blur])
