# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Find what is wrong with the volumes of a datalist taken together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from monai_essa.data.check.volumes import Problem, VolumeFacts
from monai_essa.data.readers.npz import is_npz_name

__all__ = ["CheckedItem", "mixture_problems", "overlap_problems"]

_Read = Sequence[tuple[str, VolumeFacts]]

_SPACING_FACTOR = 2.0
_INTENSITY_FACTOR = 20.0


@dataclass(frozen=True)
class CheckedItem:
    """One item of a datalist after its files were read.

    Attributes:
        section: where it is listed.
        file: the image, as the datalist names it.
        patient: its patient.
        image: facts of the image, ``None`` if it could not be read.
        label: facts of the label, ``None`` if there is none or it could not be read.
        image_is_label: whether the image's voxels look like those of a label map.
    """

    section: str
    file: str
    patient: str
    image: VolumeFacts | None
    label: VolumeFacts | None
    image_is_label: bool = False


def overlap_problems(items: Sequence[CheckedItem]) -> Iterator[Problem]:
    """Yield duplicates (equal voxels) and patients that are in more than one section.

    Args:
        items: of all sections.

    Yields:
        The problems; a duplicate within one section, or within an NPZ file, is a warning.
    """
    first: dict[str, CheckedItem] = {}
    for item in items:
        other = first.setdefault(item.image.digest, item) if item.image else item
        if other is item:
            continue
        problem = f"the voxels of {other.file} of {other.section!r}"
        # The split of an NPZ file is its publisher's: a site cannot mend it, but should know.
        mild = other.section == item.section or is_npz_name(item.file)
        severity: Literal["error", "warning"] = "warning" if mild else "error"
        yield Problem(severity, item.file, item.section, problem, "keep one of the two")

    sections: dict[str, dict[str, str]] = defaultdict(dict)
    for item in items:
        sections[item.patient].setdefault(item.section, item.file)
    for patient, files in sections.items():
        for section, file in list(files.items())[1:]:
            problem = f"patient {patient} is also in {next(iter(files))!r}"
            yield Problem("error", file, section, problem, "split by patient, or give each item its 'patient'")


def mixture_problems(items: Sequence[CheckedItem]) -> Iterator[Problem]:
    """Yield how images differ from most others: channels, orientation, spacing, intensity scale.

    Args:
        items: of all sections.

    Yields:
        An error for each label map among scans, and for each image with another number of channels; one warning if all
        images are label maps, or have several channels; and one warning each for orientation, spacing and intensity
        that names the first such image, since the preprocessing evens them out.
    """
    yield from _label_maps(items)
    read = [(item.file, item.image) for item in items if item.image]
    if not read:
        return
    channels = Counter(facts.channels for _, facts in read).most_common(1)[0][0]
    if channels > 1:
        problem = f"{channels} channels, as most images"
        yield Problem("warning", read[0][0], "image", problem, "set in_channels so, or split time points into files")
    for file, facts in read:
        if facts.channels != channels:
            problem = f"{facts.channels} channels, most images have {channels}"
            yield Problem("error", file, "image", problem, "leave out the file, or split it into 3-D images")
    yield from _orientation_mix(read)
    yield from _spacing_mix(read)
    yield from _intensity_mix(read)


def _label_maps(items: Sequence[CheckedItem]) -> Iterator[Problem]:
    maps = [item for item in items if item.image_is_label]
    if maps and len(maps) == len([item for item in items if item.image]):
        problem = f"all {len(maps)} images look like label maps"
        yield Problem("warning", maps[0].file, "image", problem, "list the scans, unless shapes are to be classified")
        return
    for item in maps:
        yield Problem("error", item.file, "image", "label map among the images", "list it as the label of its scan")


def _orientation_mix(read: _Read) -> Iterator[Problem]:
    usual = Counter(facts.orientation for _, facts in read).most_common(1)[0][0]
    odd = [(file, facts) for file, facts in read if facts.orientation != usual]
    if odd:
        file, facts = odd[0]
        problem = f"{len(odd)} of {len(read)} images are not {usual}, as this one ({facts.orientation})"
        yield Problem("warning", file, "image", problem, "keep Orientationd in the preprocessing")


def _spacing_mix(read: _Read) -> Iterator[Problem]:
    usual = np.median([_spacing(facts) for _, facts in read], axis=0)
    odd = [(file, facts) for file, facts in read if _factor(_spacing(facts), usual) > _SPACING_FACTOR]
    if odd:
        file, facts = odd[0]
        problem = (
            f"{len(odd)} of {len(read)} images differ from the median spacing {_mm(usual)} by a factor over "
            f"{_SPACING_FACTOR:g}, as this one ({_mm(_spacing(facts))})"
        )
        yield Problem("warning", file, "image", problem, "keep Spacingd in the preprocessing")


def _intensity_mix(read: _Read) -> Iterator[Problem]:
    read = [(file, facts) for file, facts in read if facts.high > facts.low]  # constant images have their own error
    usual = np.median([facts.high - facts.low for _, facts in read]) if read else 0.0
    odd = [(file, facts) for file, facts in read if _factor(facts.high - facts.low, usual) > _INTENSITY_FACTOR]
    if odd:
        file, facts = odd[0]
        problem = (
            f"{len(odd)} of {len(read)} images differ from the median intensity extent {usual:g} by a factor over "
            f"{_INTENSITY_FACTOR:g}, as this one ({facts.low:g} to {facts.high:g})"
        )
        yield Problem("warning", file, "image", problem, "normalise each volume by itself (intensity_mr)")


def _spacing(facts: VolumeFacts) -> np.ndarray:
    return np.sort(np.append(facts.spacing, [1.0] * (3 - len(facts.spacing))))  # sorted: axes may come in any order


def _factor(values: np.ndarray | float, reference: np.ndarray | float) -> float:
    tiny = np.finfo(float).tiny
    ratio = np.maximum(values, tiny) / np.maximum(reference, tiny)
    return float(np.maximum(ratio, 1.0 / ratio).max())


def _mm(spacing: np.ndarray) -> str:
    return " x ".join(f"{size:g}" for size in spacing) + " mm"
