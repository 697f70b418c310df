# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The demo cohort: template-derived brain volumes of two "scanners", the same files for the same seed.

No volume is a patient. One anatomy, the MNI152 T1 template with its gray and white matter maps as nilearn ships them,
is deformed anew for each volume and then imaged by one of two made-up scanners:

* scanner A, the *source* domain, without labels: T1-like contrast, little noise;
* scanner B, the *target* domain, partly labelled: T2-like contrast (reversed), thicker slices, a stronger bias field,
  more noise and another intensity scale.

Labels (1 gray matter, 2 white matter) come from the deformed tissue maps, so they fit the images by construction.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from tqdm import tqdm

from monai_essa.data.template_volumes import Scanner, deform, load_template, scan, tissue_labels

__all__ = ["CohortSize", "make_cohort"]

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


@dataclass(frozen=True)
class CohortSize:
    """How many volumes each section of the demo cohort holds.

    Args:
        source: scanner A, images alone.
        unlabeled: scanner B, images alone.
        training: scanner B, with labels.
        validation: scanner B, with labels.
        test: scanner B, with labels.

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
        directory: folder to make; its parents are made as needed.
        size: volumes per section; default ``CohortSize()``, 53 volumes in about 10 seconds.
        seed: 0 or more.

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
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _one_thread(), tempfile.TemporaryDirectory(prefix=".cohort_", dir=directory.parent) as folder:
        partial = Path(folder) / directory.name
        _write_cohort(partial, volumes, load_template(), seed)
        partial.rename(directory)
    logger.info("demo cohort of %d template-derived volumes written to %s", len(volumes), directory)
    return directory / "datalist.json"


_SCANNERS = {
    "A": Scanner((0.25, 0.55, 0.90), texture=1.0, blur=(0.0, 0.0, 0.0), bias=0.06, noise=0.03, scale=1000),
    "B": Scanner((0.95, 0.68, 0.42), texture=-0.6, blur=(1.0, 1.0, 2.0), bias=0.15, noise=0.04, scale=400),
}


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
        "generator": "monai_essa.data.cohort",
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
    """The order of sums, and so the last bit, depends on the number of threads; these volumes are small anyway."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
