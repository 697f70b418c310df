# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Finds the images that each label map belongs to, by their names alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from monai_essa.data.case_names import case_of, folders_of, modality_of, split_of, volume_stem, words_of
from monai_essa.data.volume_search import FoundVolume

__all__ = ["fit_labels"]

_CHANNEL = re.compile(r"_\d{4}$")
_SAY_WHAT_IT_IS = frozenset(
    "image images img imgs imaging volume volumes vol scan scans data input raw orig seg aseg dseg segm segmentation "
    "segmentations label labels labelmap mask masks msk manual gt truth groundtruth annotation annotations".split()
)
_Fit = dict[FoundVolume, list[FoundVolume]]


def fit_labels(images: Sequence[FoundVolume], labels: Sequence[FoundVolume]) -> _Fit:
    """Find the images of each label; several are the series of one study, or a doubt.

    Four ways to compare names are tried in turn, for the labels that those before left without an image: equal names,
    but for nnU-Net's channel; equal identities (see below); the same with ``img0007`` taken apart; and the name of the
    label as the name of a folder. An *identity* is a path's words without those that only images or only labels have,
    if these stand in more than one identity (``volume``, ``t1n``, ``liver``) or say what a file is (``seg``).
    So ``case_00001/imaging`` fits ``case_00001/segmentation``, and ``case_4_seg`` does not fit ``case_5``.

    Args:
        images: what :func:`monai_essa.data.volume_search.find_volumes` found.
        labels: likewise.

    Returns:
        The images of each label; an empty list where none fits.

    Example:
        >>> volume, mask = (FoundVolume(None, name, (), "") for name in ("volume-1.nii", "segmentation-1.nii"))
        >>> [image.name for image in fit_labels([volume], [mask])[mask]]
        ['volume-1.nii']
    """
    fit: _Fit = {label: [] for label in labels}
    for compare in (_by_equal_names, _by_identity(words_of), _by_identity(_smaller_words), _by_folder):
        left = [label for label, fitting in fit.items() if not fitting]
        fit |= compare(images, left)
    return fit


def _by_equal_names(images: Sequence[FoundVolume], labels: Sequence[FoundVolume]) -> _Fit:
    by_stem: dict[str, list[FoundVolume]] = defaultdict(list)
    for image in images:
        stem = volume_stem(image.name)
        for name in {stem, _CHANNEL.sub("", stem)}:
            by_stem[name].append(image)
    fit: _Fit = {}
    for label in labels:
        same = _of_one_split(by_stem[volume_stem(label.name)], label)
        beside = [image for image in same if folders_of(image.name) == folders_of(label.name)]
        fit[label] = beside or (same if len({folders_of(image.name) for image in same}) < 2 else [])
    return fit


def _by_identity(words: Callable[[str], tuple[str, ...]]) -> Callable[..., _Fit]:
    def compare(images: Sequence[FoundVolume], labels: Sequence[FoundVolume]) -> _Fit:
        of_images, of_labels = ({one: words(one.name) for one in side} for side in (images, labels))
        shared = set(chain(*of_images.values())) & set(chain(*of_labels.values()))
        by_identity: dict[tuple[str, ...], list[FoundVolume]] = defaultdict(list)
        for image, identity in _identities(of_images, shared).items():
            by_identity[identity].append(image)
        found = _identities(of_labels, shared)
        return {label: _of_one_split(by_identity[found[label]], label) if found[label] else [] for label in labels}

    return compare


def _identities(side: Mapping[FoundVolume, tuple[str, ...]], shared: set[str]) -> dict[FoundVolume, tuple[str, ...]]:
    places: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for words in side.values():
        place = tuple(word for word in words if word in shared)
        for word in set(words) - set(place):
            places[word].add(place)
    free = {word for word, stands in places.items() if len(stands) > 1 or word in _SAY_WHAT_IT_IS or modality_of(word)}
    return {volume: tuple(word for word in words if word not in free) for volume, words in side.items()}


def _by_folder(images: Sequence[FoundVolume], labels: Sequence[FoundVolume]) -> _Fit:
    by_name: dict[str, list[FoundVolume]] = defaultdict(list)
    for image in images:
        for name in {case_of(image.name), *folders_of(image.name)} - {""}:
            by_name[name].append(image)
    return {label: _of_one_split(by_name[case_of(label.name)], label) for label in labels}


def _smaller_words(name: str) -> tuple[str, ...]:
    return tuple(
        part for word in words_of(name) for part in ([word] if modality_of(word) else re.findall(r"[a-z]+|\d+", word))
    )


def _of_one_split(images: Sequence[FoundVolume], label: FoundVolume) -> list[FoundVolume]:
    """Leave out images of the publisher's test set for a label of the training set; numbers may start anew there."""
    split = split_of(label.name)
    return [image for image in images if not split or split_of(image.name) in ("", split)]
