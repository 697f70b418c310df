# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Pairs images with labels by name and takes one series of each study."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from monai_essa.data.case_names import case_of, folders_of, volume_stem
from monai_essa.data.volume_search import FoundVolume

__all__ = ["Case", "one_per_study", "pair_labels"]

_CHANNEL = re.compile(r"_\d{4}$")


@dataclass(frozen=True)
class Case:
    """An image, its label if it has one, and the patient once that is known."""

    image: FoundVolume
    label: FoundVolume | None
    patient: str = ""


def pair_labels(images: Sequence[FoundVolume], labels: Sequence[FoundVolume]) -> tuple[list[Case], list[str]]:
    """Give each image the label of the same case.

    The names compared are, in this order: the case, the case without its series, the sub-folders from the inner one
    outwards. Where several labels have the name, the one in the image's own sub-folder is meant.

    Args:
        images: what :func:`monai_essa.data.find_volumes` found.
        labels: likewise; may be empty.

    Returns:
        One case per image, without a label where none fits, and one line for each volume left out and why.

    Raises:
        ValueError: if there are labels and not one fits.
    """
    by_case: dict[str, list[FoundVolume]] = defaultdict(list)
    for label in labels:
        by_case[case_of(label.name)].append(label)
    cases, left_out = [], []
    for image in images:
        fitting = _fitting(image, by_case)
        if len(fitting) > 1:
            names = ", ".join(label.name for label in fitting[:3])
            left_out.append(f"{image.name}: several labels fit ({names}); keep one")
        else:
            cases.append(Case(image, fitting[0] if fitting else None))
    used = {case.label for case in cases}
    if labels and used == {None}:
        msg = f"no label fits an image: names are like {labels[0].name} and {images[0].name}; make their stems equal"
        raise ValueError(msg)
    return cases, left_out + [f"{label.name}: a label without an image" for label in labels if label not in used]


def one_per_study(cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """Take one series of each study: with a label before without, then the commonest kind, then the most slices.

    Args:
        cases: what :func:`pair_labels` returned.

    Returns:
        The cases taken, in the given order, and one line for each volume left out and why.
    """
    by_study: dict[tuple[str, ...], list[Case]] = defaultdict(list)
    for case, study in zip(cases, _studies(cases), strict=True):
        by_study[study].append(case)
    kinds = Counter(kind for together in by_study.values() for kind in {case.image.series for case in together})
    taken, left_out = [], []
    for together in by_study.values():
        best = max(together, key=lambda case: (case.label is not None, kinds[case.image.series], case.image.slices))
        taken.append(best)
        left_out += [
            f"{case.image.name}: {best.image.name} of the same study was taken; choose with a pattern"
            for case in together
            if case is not best
        ]
    return _each_label_once(taken, left_out)


def _fitting(image: FoundVolume, by_case: Mapping[str, list[FoundVolume]]) -> list[FoundVolume]:
    folders = folders_of(image.name)
    for key in (case_of(image.name), image.study[-1], *reversed(folders)):
        named = by_case.get(key, [])
        beside = [label for label in named if folders_of(label.name) == folders]
        if beside or (named and key):
            return beside or named
    return []


def _studies(cases: Sequence[Case]) -> list[tuple[str, ...]]:
    # nnU-Net writes the channels of case_1 as case_1_0000, case_1_0001; elsewhere such numbers are case numbers.
    channels = any(
        case.label and volume_stem(case.image.name) == f"{volume_stem(case.label.name)}_0000" for case in cases
    )
    if not channels:
        return [case.image.study for case in cases]
    return [(*case.image.study[:-1], _CHANNEL.sub("", case.image.study[-1])) for case in cases]


def _each_label_once(cases: Sequence[Case], left_out: list[str]) -> tuple[list[Case], list[str]]:
    uses = Counter(case.label for case in cases if case.label)
    repeated = [label for label, count in uses.items() if count > 1]
    left_out = left_out + [
        f"{label.name}: a label that fits {uses[label]} images; give each its own" for label in repeated
    ]
    return [replace(case, label=None) if case.label in repeated else case for case in cases], left_out
