# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Make the cases of a datalist from images and labels: the channels of each study, or one of its series."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from monai_essa.data.pairing.names import modality_of, volume_stem
from monai_essa.data.readers.folder import FoundVolume, VolumeLook

__all__ = ["Case", "Cases", "LeftOut", "make_cases"]

Fit = Mapping[FoundVolume, Sequence[FoundVolume]]
Looks = Mapping[FoundVolume, VolumeLook]

_CHANNEL = re.compile(r"_(\d{4})$")
_ORDER = ("ct", "mr", "t1", "t1c", "t2", "flair", "pd", "dwi", "adc", "swi", "mra", "pet")
_MOST_CHANNELS = 16
_CHOOSE = "choose one by --label-pattern"


@dataclass(frozen=True)
class Case:
    """A future item of a datalist: its images (several are channels), its label and its patient."""

    images: tuple[FoundVolume, ...]
    label: FoundVolume | None
    patient: str = ""

    @property
    def name(self) -> str:
        """The relative path of the first image."""
        return self.images[0].name


@dataclass(frozen=True)
class LeftOut:
    """A file that is not in the datalist.

    Attributes:
        name: its relative path.
        reason: why, and what to do.
        label_lost: whether it is a label map that only the user can place.
    """

    name: str
    reason: str
    label_lost: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass
class Cases:
    """What became of images and labels.

    Attributes:
        cases: in the order of the images.
        left_out: every other file.
        channels: the names of the images of a case in their order, if it has several; otherwise empty.
    """

    cases: list[Case] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    channels: tuple[str, ...] = ()


@dataclass
class _Study:
    """One image for each channel, or for each series of which one will be taken; the label; and the other images."""

    by_channel: dict[str, FoundVolume]
    label: FoundVolume | None
    others: list[FoundVolume]


@dataclass(frozen=True)
class _Evidence:
    """What decides between images: headers, whether trailing numbers are channels, and how common a kind is."""

    looks: Looks
    numbered: bool
    kinds: Mapping[str, int]

    def channel(self, image: FoundVolume) -> str:
        number = _CHANNEL.search(volume_stem(image.name)) if self.numbered else None
        return number[1] if number else modality_of(image.name)

    def study(self, image: FoundVolume) -> tuple[str, ...]:
        return (*image.study[:-1], _CHANNEL.sub("", image.study[-1])) if self.numbered else image.study

    def lies_on(self, image: FoundVolume, other: FoundVolume) -> bool:
        """Say whether the headers show one grid; a header that cannot be read shows none."""
        looks = [self.looks.get(volume, VolumeLook()) for volume in (image, other)]
        return all(look.shape for look in looks) and looks[0].on_grid_of(looks[1])


def make_cases(images: Sequence[FoundVolume], fit: Fit, looks: Looks) -> Cases:
    """Make one case of each study.

    If every study (with a label, if there are any) has the same channels on one grid, a case has them all: nnU-Net's
    ``_0000``, ``_0001``, or modalities such as t1n, t1c, t2w, t2f. Otherwise one series of each study is taken: the one
    that the label fits, then the kind that most studies have, then the one with the most slices.

    Args:
        images: all of them.
        fit: the images of each label, as :func:`monai_essa.data.pairing.search.fit_labels` returns them.
        looks: what was seen of images and labels.

    Returns:
        The cases, and each file that is left out with the reason.
    """
    kinds = Counter(kind for _, kind in {(image.study, image.series) for image in images})
    evidence = _Evidence(looks, _numbers_are_channels(images, fit), kinds)
    made = Cases()
    studies, doubtful = _labelled_studies(fit, evidence, made.left_out)
    used = {image for study in studies for image in (*study.by_channel.values(), *study.others)} | doubtful
    _add_unlabelled_studies(studies, [image for image in images if image not in used], evidence)
    made.channels = _common_channels(studies, evidence)
    counts = Counter(channel for study in studies for channel in study.by_channel)
    for study in studies:
        _add_case(study, counts, evidence, made)
    order = {image: place for place, image in enumerate(images)}
    made.cases.sort(key=lambda case: order[case.images[0]])
    return made


def _numbers_are_channels(images: Sequence[FoundVolume], fit: Fit) -> bool:
    """Say whether ``_0000`` is nnU-Net's channel and no case number: labels lack it, or all cases have the same few."""
    stems = {(volume_stem(image.name), volume_stem(label.name)) for label, fitting in fit.items() for image in fitting}
    if any(image == f"{label}_0000" for image, label in stems):
        return True
    numbers: dict[str, set[str]] = defaultdict(set)
    for image in images:
        stem = volume_stem(image.name)
        numbers[_CHANNEL.sub("", stem)].add(stem[-4:] if _CHANNEL.search(stem) else "")
    sets = list(numbers.values())
    same = len(sets) > 1 and all(one == sets[0] for one in sets)
    return same and "0000" in sets[0] and len(sets[0]) <= _MOST_CHANNELS


def _labelled_studies(fit: Fit, evidence: _Evidence, left_out: list[LeftOut]) -> tuple[list[_Study], set[FoundVolume]]:
    """Make a study of each label that fits alone; leave out the other labels, and images that several labels fit."""
    rivals: dict[FoundVolume, list[FoundVolume]] = defaultdict(list)
    for label, images in fit.items():
        for image in images:
            rivals[image].append(label)
    doubtful = {image: labels for image, labels in rivals.items() if len(labels) > 1}
    for image, labels in doubtful.items():
        left_out.append(LeftOut(image.name, f"several labels fit ({_few(labels)}); {_CHOOSE}"))
    studies = []
    for label, images in fit.items():
        study = _Study({}, label, [])
        if not images:
            left_out.append(LeftOut(label.name, "a label without an image; give both the same name", True))
        elif not doubtful.keys().isdisjoint(images):
            left_out.append(LeftOut(label.name, f"one of several labels of {images[0].name}; {_CHOOSE}", True))
        elif _fill(study, images, evidence):
            studies.append(study)
        else:
            reason = (
                f"a label that fits {len(images)} images ({_few(images)}); give each its own, or choose with a pattern"
            )
            left_out.append(LeftOut(label.name, reason, True))
    return studies, set(doubtful)


def _fill(study: _Study, images: Sequence[FoundVolume], evidence: _Evidence) -> bool:
    """Put one image into each channel; say whether that is certain."""
    by_channel: dict[str, list[FoundVolume]] = defaultdict(list)
    for image in images:
        by_channel[evidence.channel(image)].append(image)
    for channel, candidates in by_channel.items():
        aligned = [image for image in candidates if channel and study.label and evidence.lies_on(image, study.label)]
        certain = len({evidence.study(image) for image in candidates}) == 1
        if not aligned and not certain:
            return False
        best = max(aligned or candidates, key=lambda image: _rank(image, evidence))
        study.by_channel[channel] = best
        study.others += [image for image in candidates if image is not best]
    return True


def _rank(image: FoundVolume, evidence: _Evidence) -> tuple[bool, int, int]:
    return "suv" in image.name.lower(), evidence.kinds[image.series], image.slices  # SUV is PET in units of its own


def _add_unlabelled_studies(studies: list[_Study], images: Sequence[FoundVolume], evidence: _Evidence) -> None:
    """Make studies of images without a label; what belongs to a study with a label is one of its other images."""
    known = {evidence.study(image): study for study in studies for image in study.by_channel.values()}
    groups: dict[tuple[str, ...], list[FoundVolume]] = defaultdict(list)
    for image in images:
        groups[evidence.study(image)].append(image)
    for key, together in groups.items():
        if key in known:
            known[key].others += together
        else:
            study = _Study({}, None, [])
            _fill(study, together, evidence)
            studies.append(study)


def _common_channels(studies: Sequence[_Study], evidence: _Evidence) -> tuple[str, ...]:
    """Name the channels that every study with a label has on its grid, or every study if there is no label."""
    asked = [study for study in studies if study.label] or studies
    sets = [set(_aligned(study, evidence)) for study in asked]
    common = set.intersection(*sets) if sets else set()
    order = {channel: place for place, channel in enumerate(_ORDER)}
    return tuple(sorted(common, key=lambda channel: (order.get(channel, -1), channel))) if len(common) > 1 else ()


def _aligned(study: _Study, evidence: _Evidence) -> list[str]:
    """Name the channels that can be stacked: those on the grid of the label, else of the first image."""
    grid = study.label or next(iter(study.by_channel.values()))
    return [
        channel
        for channel, image in study.by_channel.items()
        if channel and (evidence.numbered or image is grid or evidence.lies_on(image, grid))
    ]


def _add_case(study: _Study, counts: Mapping[str, int], evidence: _Evidence, made: Cases) -> None:
    held = study.by_channel
    missing = [channel for channel in made.channels if channel not in _aligned(study, evidence)]
    if missing:
        reason = f"its study lacks the channel {missing[0]} on its grid, which the others have; add it"
        made.left_out += [LeftOut(image.name, reason) for image in (*held.values(), *study.others)]
        return

    def rank(channel: str) -> tuple[bool, int, tuple[bool, int, int]]:
        image = held[channel]
        on_label = study.label is not None and evidence.lies_on(image, study.label)
        return on_label, counts[channel], _rank(image, evidence)

    best = max(held, key=rank)
    taken = tuple(held[channel] for channel in made.channels or (best,))
    made.cases.append(Case(taken, study.label))
    reason = f"{taken[0].name} of the same study was taken; choose with a pattern"
    made.left_out += [LeftOut(image.name, reason) for image in (*held.values(), *study.others) if image not in taken]


def _few(volumes: Sequence[FoundVolume]) -> str:
    names = ", ".join(volume.name for volume in volumes[:3])
    return f"{names} and {len(volumes) - 3} more" if len(volumes) > 3 else names
