# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Make the demo cohort: volumes derived from the MNI152 template and its tissue maps, by two simulated scanners."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import nibabel as nib
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
from tqdm import tqdm

from monai_essa.files import folder_written_whole

__all__ = [
    "SHAPE",
    "SPACING",
    "CohortSize",
    "Scanner",
    "deform",
    "load_template",
    "make_cohort",
    "scan",
    "tissue_labels",
]

logger = logging.getLogger(__name__)
_TARGET_SECTIONS = ("unlabeled", "training", "validation", "test")
GENERATOR_VERSION = 1  # raise it whenever the same seed gives other voxels
_LICENCE = (
    "Derived from the MNI152 template (ICBM 2009a nonlinear symmetric): Copyright (C) 1993-2004 Louis Collins, "
    "McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University. Permission to use, copy, "
    "modify, and distribute this software and its documentation for any purpose and without fee is hereby granted, "
    "provided that the above copyright notice appear in all copies. The authors and McGill University make no "
    "representations about the suitability of this software for any purpose. It is provided 'as is' without "
    "express or implied warranty."
)
SHAPE = (48, 64, 48)  # divides by 16, so that every network takes the volumes whole
SPACING = 3.75  # mm; at this voxel size the deformed brain stays inside SHAPE
_TEMPLATE_TISSUES = (0.33, 0.64, 0.86)  # mean of CSF, gray and white matter where the template's maps are above 0.8


@dataclass(frozen=True)
class CohortSize:
    """Set the number of volumes in each section of the demo cohort.

    Args:
        source: volumes of scanner A, images alone, default 24.
        unlabeled: volumes of scanner B, images alone, default 16.
        training: volumes of scanner B, with labels, default 3.
        validation: volumes of scanner B, with labels, default 2.
        test: volumes of scanner B, with labels, default 8.

    Raises:
        ValueError: if a number is negative.
    """

    source: int = 24
    unlabeled: int = 16
    training: int = 3
    validation: int = 2
    test: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"CohortSize.{field.name} must be 0 or more, got {getattr(self, field.name)}")


def make_cohort(directory: str | os.PathLike, size: CohortSize | None = None, seed: int = 0) -> Path:
    """Write the demo cohort: NIfTI volumes of two scanners and a datalist.

    Each volume is a function of (seed, scanner, number) alone: a larger cohort begins with the volumes of a smaller
    one, and two runs on one machine write the same bytes. The folder appears under its name only when complete.

    Args:
        directory: a new folder; its parents are made as needed.
        size: volumes per section; default ``CohortSize()``, 53 volumes in about 10 seconds.
        seed: seed of the volumes, 0 or more, default 0.

    Returns:
        The path of ``datalist.json``, with the sections ``source#unlabeled``, ``target#unlabeled``,
        ``target#training``, ``target#validation`` and ``target#test``; paths are relative to its folder.

    Raises:
        FileExistsError: if ``directory`` exists.
        ImportError: if nilearn, which carries the template, is not installed.

    Example:
        >>> import tempfile
        >>> size = CohortSize(source=1, unlabeled=1, training=1, validation=1, test=1)
        >>> datalist = make_cohort(Path(tempfile.mkdtemp()) / "demo_cohort", size)
        >>> datalist.name
        'datalist.json'
    """
    directory = Path(directory).absolute()
    if directory.exists():
        raise FileExistsError(f"{directory} exists; name a new folder for the demo cohort, or remove this one first")
    volumes = list(_volumes(size or CohortSize()))
    with _one_thread(), folder_written_whole(directory) as partial:
        _write_cohort(partial, volumes, load_template(), seed)
    logger.info("demo cohort of %d template-derived volumes written to %s", len(volumes), directory)
    return directory / "datalist.json"


@dataclass(frozen=True)
class Scanner:
    """Describe a simulated scanner; intensities are relative to the template's brightest voxel.

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
        scanner: its contrast and artefacts.
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
    """Label each voxel with the tissue of the largest share.

    Args:
        anatomy: T1, gray matter, white matter and brain mask, (4, x, y, z).

    Returns:
        0 elsewhere, 1 gray matter, 2 white matter, as uint8, (x, y, z).
    """
    _, gray, white, _ = anatomy
    return torch.stack([1.0 - gray - white, gray, white]).argmax(dim=0).numpy().astype(np.uint8)


@dataclass(frozen=True)
class _Volume:
    scanner: str
    section: str
    number: int

    @property
    def item(self) -> dict[str, str]:
        file = f"demo{self.scanner}_{self.number:03d}.nii.gz"
        return {"image": f"images/{file}"} | ({} if self.section == "unlabeled" else {"label": f"labels/{file}"})


def _volumes(size: CohortSize) -> Iterator[_Volume]:
    yield from (_Volume("A", "unlabeled", number) for number in range(1, size.source + 1))
    first = 1
    for section in _TARGET_SECTIONS:
        count = getattr(size, section)
        yield from (_Volume("B", section, number) for number in range(first, first + count))
        first += count


def _datalist(volumes: list[_Volume], seed: int) -> dict:
    def items(scanner: str, section: str) -> list[dict[str, str]]:
        return [volume.item for volume in volumes if (volume.scanner, volume.section) == (scanner, section)]

    return {
        "name": "monai_essa demo cohort: template-derived from MNI152, no patients",
        "description": "Deformed MNI152 brains. Source: scanner A, T1-like. Target: scanner B, T2-like, noisier.",
        "licence": _LICENCE,
        "generator": "monai_essa.demo.cohort",
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "modality": {"0": "MRI"},
        "tensorImageSize": "3D",
        "labels": {"0": "background", "1": "gray matter", "2": "white matter"},
        "source": {"unlabeled": items("A", "unlabeled")},
        "target": {section: items("B", section) for section in _TARGET_SECTIONS},
    }


def _write_cohort(folder: Path, volumes: list[_Volume], template: MetaTensor, seed: int) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for volume in tqdm(volumes, desc="demo cohort", unit="volume"):
        _write_volume(folder, volume, template, seed)
    text = json.dumps(_datalist(volumes, seed), indent=1)
    (folder / "datalist.json").write_text(text + "\n", encoding="utf-8")


def _write_volume(folder: Path, volume: _Volume, template: MetaTensor, seed: int) -> None:
    key = np.random.SeedSequence([seed, ord(volume.scanner), volume.number]).generate_state(1)
    state = np.random.RandomState(key)
    anatomy = deform(template.as_tensor(), state)
    _write_nifti(folder / volume.item["image"], scan(anatomy, _SCANNERS[volume.scanner], state), template.affine)
    if "label" in volume.item:
        _write_nifti(folder / volume.item["label"], tissue_labels(anatomy), template.affine)


def _write_nifti(path: Path, voxels: np.ndarray, affine: torch.Tensor) -> None:
    image = nib.Nifti1Image(voxels, np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, code="scanner")
    image.set_sform(image.affine, code="scanner")
    nib.save(image, path)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread within the block: the order of sums, and so the last bit, depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_SCANNERS = {
    "A": Scanner((0.25, 0.55, 0.90), texture=1.0, blur=(0.0, 0.0, 0.0), bias=0.06, noise=0.03, scale=1000),
    "B": Scanner((0.95, 0.68, 0.42), texture=-0.6, blur=(1.0, 1.0, 2.0), bias=0.15, noise=0.04, scale=400),
}
