# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the demo runs on: a datalist, the sections each stage takes, and what the configs must know of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from monai_essa.data.cohort import CohortSize, make_cohort
from monai_essa.data.template_volumes import SPACING

__all__ = ["DemoData", "ImageCard", "cohort_data"]


@dataclass(frozen=True)
class ImageCard:
    """What the configs must know of the images.

    Args:
        spacing: mm of a voxel along R, A and S.
        labels: id by name, from 0 on, the background first.
        in_channels: channels of an image.
        intensity: ``"mr"`` or ``"ct"``, the overlay of the bundles.
    """

    spacing: tuple[float, float, float]
    labels: Mapping[str, int]
    in_channels: int = 1
    intensity: str = "mr"


@dataclass(frozen=True)
class DemoData:
    """The data of a demo.

    Args:
        datalist: JSON file with the sections below.
        sections: name in the datalist of ``source`` and ``unlabeled`` (images alone), ``training``, ``validation`` and
            ``test`` (with labels).
        card: of the images.
        about: sentences for the reader, the first on where the volumes come from.
        template_derived: whether they are the demo cohort.
    """

    datalist: Path
    sections: Mapping[str, str]
    card: ImageCard
    about: tuple[str, ...]
    template_derived: bool


def cohort_data(folder: Path, size: CohortSize, seed: int) -> DemoData:
    """Make the demo cohort: unlabelled scans of scanner A, and scans of scanner B of which few have labels.

    Args:
        folder: new folder for the volumes.
        size: volumes per section.
        seed: of the volumes.

    Returns:
        The data.

    Raises:
        FileExistsError: if the folder exists.
        ImportError: if nilearn is not installed.
    """
    target = {name: f"target#{name}" for name in ("unlabeled", "training", "validation", "test")}
    return DemoData(
        datalist=make_cohort(folder, size, seed),
        sections={"source": "source#unlabeled", **target},
        card=ImageCard((SPACING,) * 3, {"background": 0, "gray matter": 1, "white matter": 2}),
        about=(
            "The volumes are template-derived: deformed copies of the MNI152 brain, imaged by two made-up scanners.",
            f"Scanner A (T1-like) gives {size.source} volumes without labels. Scanner B (T2-like, thicker slices, more "
            f"noise) gives {size.unlabeled} without labels, and with labels {size.training} to train on, "
            f"{size.validation} to choose the best epoch and {size.test} to test.",
        ),
        template_derived=True,
    )
