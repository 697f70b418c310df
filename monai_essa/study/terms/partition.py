# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The scans of a study by who may see them, and the sections of its data list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Fold", "Partition", "Scan", "partition_sections"]


@dataclass(frozen=True)
class Scan:
    """A scan with what is known of it.

    Args:
        image: path of the image, or the paths of its channels.
        label: path of the label map, number of the class, a list with 0 or 1 for each class, or None without a label.
        patient: name of the patient.
    """

    image: Any
    label: Any | None
    patient: str


@dataclass(frozen=True)
class Fold:
    """What one training may see, and what it is tested on.

    Attributes:
        training: the labelled scans that it trains on.
        test: the labelled scans that it is tested on; no patient is on both sides.
        unlabeled: the scans that SSA may see before it, without their labels.
        further: the labelled scans that it trains on with other numbers of labelled patients.
    """

    training: tuple[Scan, ...]
    test: tuple[Scan, ...]
    unlabeled: tuple[Scan, ...]
    further: Mapping[int, tuple[Scan, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Partition:
    """How a study parts its patients.

    Attributes:
        design: ``"fixed"`` for one test set, ``"folds"`` for five folds, ``"leave-one-out"``, or ``"none"`` if there
            are too few labels to test anything.
        repeats: the folds of each repeat; a single one with a fixed test set or without a test.
        ssa_by_fold: whether the scans that SSA may see differ between the folds of a repeat.
        refit: all labels and all scans, for the training of what is exported; it tests nothing.
        sentences: the partition in words, a line each.
        trial: training patients of the first repeat, parted to try learning rates; None where there are fewer than 40.
    """

    design: str
    repeats: tuple[tuple[Fold, ...], ...]
    ssa_by_fold: bool
    refit: Fold
    sentences: tuple[str, ...] = ()
    trial: Fold | None = None

    @property
    def further(self) -> tuple[int, ...]:
        """Return the numbers of labels that are tested beside that of the verdict, in order."""
        return tuple(self.repeats[0][0].further)


def partition_sections(partition: Partition) -> dict[str, Any]:
    """Return the sections of the data list of a study.

    Args:
        partition: of the study.

    Returns:
        ``{"repeat_1": {"fold_1": {"training": [...], "test": [...], "unlabeled": [...]}}, ..., "all": {...}}``, so that
        ``repeat_1#fold_1#training`` names a section. Items are ``{"image", "label", "patient"}``; those of
        ``unlabeled`` have no label. A section without items is left out.
    """
    sections: dict[str, Any] = {
        f"repeat_{repeat}": {f"fold_{number}": _fold_sections(fold) for number, fold in enumerate(folds, 1)}
        for repeat, folds in enumerate(partition.repeats, 1)
    }
    trial = {} if partition.trial is None else {"trial": _fold_sections(partition.trial)}
    return sections | trial | {"all": _fold_sections(partition.refit)}


def _fold_sections(fold: Fold) -> dict[str, list[dict[str, Any]]]:
    sections = {"training": fold.training, "test": fold.test, "unlabeled": fold.unlabeled}
    sections |= {f"training_{count}": scans for count, scans in fold.further.items()}
    return {name: [_item(scan) for scan in scans] for name, scans in sections.items() if scans}


def _item(scan: Scan) -> dict[str, Any]:
    label = {} if scan.label is None else {"label": scan.label}
    return {"image": scan.image} | label | {"patient": scan.patient}
