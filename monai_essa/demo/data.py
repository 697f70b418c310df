# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Prepare the data of the demo: the template-derived cohort, or the user's own folder."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes

from monai_essa.data import hold_out, listed_patients, load_datalist, read_volume
from monai_essa.data.lists.fields import channel_names, class_ids
from monai_essa.data.lists.read import read_datalist
from monai_essa.data.readers.volume import in_ras_order, ras_size
from monai_essa.demo.cohort import SPACING, CohortSize, make_cohort
from monai_essa.outside import shown

__all__ = ["DemoData", "ImageCard", "cohort_data", "own_data"]

_MOST_UNLABELLED = 64  # the demo is too short to train on more scans
_HELD_OUT = {"test": 0.2, "validation": 0.1}  # share of the training cases, if the folder lacks the section
_MEASURED = 16  # scans that determine the spacing; each is read whole
_Items = list[dict[str, Any]]


@dataclass(frozen=True)
class ImageCard:
    """Describe the images for the configs.

    Args:
        spacing: mm of a voxel along R, A and S.
        labels: ids by name, from 0 on, the background first.
        in_channels: channels of an image, default 1.
        intensity: ``"mr"`` or ``"ct"``, the intensity overlay of the bundles, default ``"mr"``.
    """

    spacing: tuple[float, float, float]
    labels: Mapping[str, int]
    in_channels: int = 1
    intensity: str = "mr"


@dataclass(frozen=True)
class DemoData:
    """Describe the data of a demo.

    Args:
        datalist: JSON file with the sections below.
        sections: names in the datalist of ``source`` and ``unlabeled`` (images alone), ``training``, ``validation`` and
            ``test`` (with labels).
        card: description of the images.
        about: sentences for the report, the first of which says where the volumes come from.
        template_derived: whether they are the demo cohort.
    """

    datalist: Path
    sections: Mapping[str, str]
    card: ImageCard
    about: tuple[str, ...]
    template_derived: bool


def cohort_data(folder: Path, size: CohortSize, seed: int) -> DemoData:
    """Make the demo cohort: unlabelled scans of scanner A, and scans of scanner B, few of them with labels.

    Args:
        folder: new folder for the volumes.
        size: volumes per section.
        seed: seed of the volumes.

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


def own_data(folder: Path, datalist: Path, size: CohortSize, img_size: Sequence[int], seed: int) -> DemoData:
    """Derive the demo's sections from an MSD-style folder, and write them as a datalist.

    All images of ``training`` are used without labels for pre-training and SSA, and some of them with labels. ``test``
    and ``validation`` are those of the folder if they have labels, and otherwise held out of ``training`` by patient.

    Args:
        folder: folder with a ``dataset.json`` whose ``training`` items have an ``image`` and a ``label``.
        datalist: JSON file to write.
        size: maximum numbers of volumes for ``training``, ``validation`` and ``test``.
        img_size: crop of the network in voxels; the spacing is chosen so that the median scan fits into it.
        seed: seed of the choices.

    Returns:
        The data.

    Raises:
        FileNotFoundError: if the folder has no ``dataset.json``, or a file that it names is missing.
        ValueError: if there are too few labelled cases, or the labels are not 0, 1, 2, ... by name.
    """
    source = folder / "dataset.json"
    content = read_datalist(source)
    sections = _sections(source, size, seed)
    channels = channel_names(content, str(source)) or ["MRI"]
    card = ImageCard(
        spacing=_fitting_spacing([item["image"] for item in sections["unlabeled"][:_MEASURED]], img_size),
        labels=_label_ids(content.get("labels"), source),
        in_channels=len(channels),
        intensity="ct" if "CT" in " ".join(channels).upper() else "mr",
    )
    datalist.write_text(json.dumps(sections, indent=1), encoding="utf-8")
    names = {"source": "unlabeled"} | {name: name for name in sections}
    return DemoData(datalist, names, card, _about(sections, card), template_derived=False)


def _sections(source: Path, size: CohortSize, seed: int) -> dict[str, _Items]:
    pool: Sequence[Mapping[str, Any]] = load_datalist(source, "training")
    patients = listed_patients(source, "training")
    held: dict[str, Sequence[Mapping[str, Any]]] = {}
    for name, fraction in _HELD_OUT.items():
        held[name] = _labelled(source, name)
        if not held[name]:
            pool, held[name] = hold_out(pool, fraction, seed, patients)
    if len(pool) < size.training:
        raise ValueError(f"{source}: expected {size.training} labelled cases to train on, got {len(pool)}; add some")
    images = [{"image": item["image"]} for item in pool]
    return {
        "unlabeled": _some(images, _MOST_UNLABELLED, seed),
        "training": _some(pool, size.training, seed),
        "validation": _some(held["validation"], size.validation, seed),
        "test": _some(held["test"], size.test, seed),
    }


def _labelled(source: Path, section: str) -> _Items:
    """Load a section; [] if it is missing, empty or, like a Decathlon's test section, without labels."""
    try:
        return load_datalist(source, section)
    except ValueError:
        return []


def _some(items: Sequence[Mapping[str, Any]], count: int, seed: int) -> _Items:
    return [dict(item) for item in random.Random(seed).sample(list(items), min(count, len(items)))]


def _label_ids(labels: Any, source: Path) -> dict[str, int]:
    """Return the ids by name, which must be 0, 1, 2, ... without a gap."""
    ids = class_ids(labels, f"{source}, field 'labels'")
    if len(ids) < 2 or list(ids.values()) != list(range(len(ids))):
        raise ValueError(
            f'{source}: expected "labels" such as {{"0": "background", "1": "liver"}}, got {shown(labels)}'
        )
    return ids


def _fitting_spacing(images: Sequence[Any], img_size: Sequence[int]) -> tuple[float, float, float]:
    """Return the median voxel size along R, A and S, enlarged so that the median scan fits into the crop."""
    sizes, extents = np.zeros((len(images), 3)), np.zeros((len(images), 3))
    for number, image in enumerate(images):
        array, affine = read_volume(image)
        sizes[number] = in_ras_order(affine, voxel_sizes(affine))
        extents[number] = ras_size(affine, array.shape[1:])
    spacing = np.maximum(np.median(sizes, axis=0), np.median(extents, axis=0) / img_size)
    right, anterior, superior = (float(size) for size in spacing.round(2))
    return right, anterior, superior


def _about(sections: Mapping[str, _Items], card: ImageCard) -> tuple[str, ...]:
    count = {name: len(items) for name, items in sections.items()}
    spacing = " x ".join(f"{size:g}" for size in card.spacing)
    return (
        f"The volumes are your own, read with {spacing} mm voxels, so that the median scan fits into one crop.",
        f"Pre-training and SSA take the same {count['unlabeled']} images of the training section without their labels: "
        "there is no second scanner here, so SSA can only add what more steps on the same images add. "
        f"{count['training']} of these cases are taken with their labels to train on; {count['validation']} others "
        f"choose the best epoch and {count['test']} test.",
    )
