# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Template-derived volumes: a new anatomy by deforming MNI152, a new image by a made-up scanner.

One anatomy is a tensor of four maps on one grid: the template's T1, gray matter, white matter and brain mask.
`load_template` reads it, `deform` makes another one of it, `scan` takes its picture and `tissue_labels` its labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForeground,
    GaussianSmooth,
    Rand3DElastic,
    RandBiasField,
    RandRicianNoise,
    ResizeWithPadOrCrop,
    Spacing,
)

__all__ = ["SHAPE", "SPACING", "Scanner", "deform", "load_template", "scan", "tissue_labels"]

SHAPE = (48, 64, 48)  # divides by 16, so that every network takes the volumes whole
SPACING = 3.75  # mm; at this voxel size the deformed brain stays inside SHAPE

_TEMPLATE_TISSUES = (0.33, 0.64, 0.86)  # mean of CSF, gray and white matter where the template's maps are above 0.8


@dataclass(frozen=True)
class Scanner:
    """What a made-up scanner does to an anatomy; intensities are relative to the template's brightest voxel.

    Args:
        tissues: mean intensity of CSF, gray and white matter.
        texture: share of the template's own detail within a tissue; negative reverses it.
        blur: sigma of the slice profile along each axis, in mm.
        bias: range of the coefficients of the bias field, a Legendre polynomial of degree 3 in the exponent.
        noise: sigma of the Rician noise.
        scale: stored value of intensity 1.
    """

    tissues: tuple[float, float, float]
    texture: float
    blur: tuple[float, float, float]
    bias: float
    noise: float
    scale: int


def load_template() -> MetaTensor:
    """Read MNI152 as nilearn ships it, resampled to the cohort's grid; nothing is downloaded.

    Returns:
        T1, gray matter, white matter and brain mask, each in [0, 1], RAS, affine in mm: (4, *SHAPE).

    Raises:
        ImportError: if nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        message = 'the demo cohort is made from the template that nilearn carries: pip install "monai_essa[demo]"'
        raise ImportError(message) from error
    loaders = (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    images = [load(resolution=2) for load in loaders]
    channels = [image.get_fdata(dtype=np.float32) for image in images]
    channels.append((channels[0] > 0.05).astype(np.float32))

    to_grid = Compose(
        [
            CropForeground(select_fn=lambda image: image[3:] > 0, margin=2),
            GaussianSmooth(sigma=0.75),  # before the coarser grid, which would alias the cortex
            Spacing(pixdim=(SPACING,) * 3),
            ResizeWithPadOrCrop(SHAPE),
        ]
    )
    template: MetaTensor = to_grid(MetaTensor(np.stack(channels), affine=images[0].affine))
    return template


def deform(anatomy: torch.Tensor, state: np.random.RandomState) -> torch.Tensor:
    """Make a new anatomy: random pose and size, and a smooth displacement of about 4 mm that seldom folds.

    Args:
        anatomy: maps of one anatomy, (4, x, y, z).
        state: source of all randomness.

    Returns:
        The same maps of the new anatomy, (4, x, y, z).
    """
    elastic = Rand3DElastic(
        prob=1.0,
        sigma_range=(2.8, 3.4),
        magnitude_range=(45.0, 65.0),
        rotate_range=0.12,
        scale_range=0.07,
        translate_range=1.0,
        padding_mode="zeros",
    )
    return elastic.set_random_state(state=state)(anatomy).clamp(min=0.0)


def scan(anatomy: torch.Tensor, scanner: Scanner, state: np.random.RandomState) -> np.ndarray:
    """Image an anatomy.

    With the share s_t of tissue t in a voxel (partial volume), the scanner's mean m_t of it (jittered by 5 %) and the
    template's own mean c_t, the noiseless image is ``sum_t s_t m_t + texture * (T1 - sum_t s_t c_t)``; the bias field
    multiplies it, the slice profile blurs it and Rician noise ends it.

    Args:
        anatomy: T1, gray matter, white matter and brain mask, (4, x, y, z).
        scanner: contrast and faults.
        state: source of all randomness.

    Returns:
        The image as int16, (x, y, z).
    """
    t1, gray, white, brain = anatomy
    shares = torch.stack([(brain - gray - white).clamp(min=0.0), gray, white])  # (3, x, y, z)
    means = torch.as_tensor(scanner.tissues * state.uniform(0.95, 1.05, size=3), dtype=shares.dtype)
    detail = t1 - torch.einsum("t,txyz->xyz", shares.new_tensor(_TEMPLATE_TISSUES), shares)
    image = torch.einsum("t,txyz->xyz", means, shares) + scanner.texture * detail

    acquire = Compose(
        [
            RandBiasField(prob=1.0, degree=3, coeff_range=(-scanner.bias, scanner.bias)),
            GaussianSmooth(sigma=[sigma / SPACING for sigma in scanner.blur]),
            RandRicianNoise(prob=1.0, std=scanner.noise, sample_std=False),
        ]
    )
    acquire.set_random_state(state=state)
    return np.rint(np.asarray(acquire(image.clamp(min=0.0)[None])[0]) * scanner.scale).astype(np.int16)


def tissue_labels(anatomy: torch.Tensor) -> np.ndarray:
    """Give each voxel the tissue with the largest share.

    Args:
        anatomy: T1, gray matter, white matter and brain mask, (4, x, y, z).

    Returns:
        0 elsewhere, 1 gray matter, 2 white matter, as uint8, (x, y, z).
    """
    _, gray, white, _ = anatomy
    return torch.stack([1.0 - gray - white, gray, white]).argmax(dim=0).numpy().astype(np.uint8)
