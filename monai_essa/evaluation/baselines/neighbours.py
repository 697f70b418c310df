# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A labelled k-NN probe: what the nearest scans of other patients say of a scan, before and after an adaptation."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from monai_essa.evaluation.bootstrap import Interval, bootstrap_interval

__all__ = ["NeighbourProbe", "compare_neighbours", "neighbour_hits"]

NEIGHBOURS = 20
_TEMPERATURE = 0.07
_ROWS = 1024  # of the similarities at once


@dataclass(frozen=True)
class NeighbourProbe:
    """The k-NN probe of two encoders on the same images.

    Attributes:
        before: mean recall over the classes, with its interval.
        after: the same after the adaptation.
        difference: ``after - before``, with the interval of the paired difference.
        rows: images or patches that were classified.
        patients: how many there are.
    """

    before: Interval
    after: Interval
    difference: Interval
    rows: int
    patients: int

    def __str__(self) -> str:
        return (
            f"k-NN with labels, mean recall over the classes: before {self.before}; after {self.after}; "
            f"difference {self.difference}; {self.rows} rows of {self.patients} patients"
        )


def compare_neighbours(
    before: np.ndarray,
    after: np.ndarray,
    classes: np.ndarray,
    patients: Sequence[Hashable],
    neighbours: int = NEIGHBOURS,
    resamples: int = 1000,
) -> NeighbourProbe:
    """Compare two encoders by k-NN, each row by the rows of other patients.

    Args:
        before: features (N, D) of the base.
        after: features (N, D') of the adapted encoder, in the same order.
        classes: (N), of each row.
        patients: of each row.
        neighbours: k.
        resamples: draws of the bootstrap over patients; 0 for no intervals.

    Returns:
        The probe.

    Raises:
        ValueError: if there are fewer than two classes or fewer than two patients.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> classes = np.arange(60) % 2
        >>> noise = rng.normal(size=(60, 4))
        >>> probe = compare_neighbours(noise, noise + 9 * classes[:, None], classes, range(60), resamples=100)
        >>> probe.after.value > 0.9, probe.difference.value > 0.2
        (True, True)
    """
    hits = [neighbour_hits(features, classes, patients, neighbours) for features in (before, after)]

    def recall(*columns: np.ndarray) -> float:
        *scored, held = columns
        return (
            float(np.mean([scored[0][held == name].mean() for name in names])) if _whole(held, len(names)) else np.nan
        )

    def gain(first: np.ndarray, second: np.ndarray, held: np.ndarray) -> float:
        return recall(second, held) - recall(first, held)

    names = np.unique(classes)
    settings = {"groups": list(patients), "resamples": resamples}
    each = [bootstrap_interval(recall, hit, classes, bounds=(0.0, 1.0), **settings) for hit in hits]  # type: ignore[arg-type]
    difference = bootstrap_interval(gain, *hits, classes, bounds=(-1.0, 1.0), **settings)  # type: ignore[arg-type]
    return NeighbourProbe(each[0], each[1], difference, len(classes), len(set(patients)))


def neighbour_hits(
    features: np.ndarray, classes: np.ndarray, patients: Sequence[Hashable], neighbours: int = NEIGHBOURS
) -> np.ndarray:
    r"""Classify each row by its nearest rows of other patients, as DINO does (arXiv 2104.14294, appendix F).

    Each of the k rows of the highest cosine s votes for its class with the weight :math:`\exp(s / 0.07)`.

    Args:
        features: (N, D).
        classes: (N).
        patients: of each row.
        neighbours: k.

    Returns:
        (N), 1 where the class is right, else 0.

    Raises:
        ValueError: if there are fewer than two classes or fewer than two patients, or the lengths differ.

    Example:
        >>> rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> neighbour_hits(rows, np.array([0, 0, 1, 1]), [1, 2, 3, 4], neighbours=1)
        array([1., 1., 1., 1.])
    """
    names, numbers = np.unique(classes, return_inverse=True)
    people = np.unique(np.asarray(list(patients)), return_inverse=True)[1]
    if not len(features) == len(classes) == len(people):
        raise ValueError(f"expected a class and a patient a row, got {len(classes)}, {len(people)}, {len(features)}")
    if len(names) < 2 or people.max() < 1:
        raise ValueError(f"k-NN needs two classes and two patients or more, got {len(names)} and {people.max() + 1}")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    votes = np.eye(len(names))[numbers]  # (N, classes)
    hits = [
        _hits(unit[start : start + _ROWS], people[start : start + _ROWS], unit, people, votes, neighbours)
        == numbers[start : start + _ROWS]
        for start in range(0, len(unit), _ROWS)
    ]
    return np.concatenate(hits).astype(float)


def _hits(
    rows: np.ndarray, own: np.ndarray, unit: np.ndarray, people: np.ndarray, votes: np.ndarray, neighbours: int
) -> np.ndarray:
    """Return the number of the class that the neighbours of each row vote for."""
    similarities = rows @ unit.T
    similarities[own[:, None] == people[None]] = -np.inf
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :neighbours]
    weights = np.exp((np.take_along_axis(similarities, nearest, axis=1) - 1) / _TEMPERATURE)  # 0 for a patient's own
    return np.einsum("nk,nkc->nc", weights, votes[nearest]).argmax(axis=1)


def _whole(held: np.ndarray, classes: int) -> bool:
    return len(np.unique(held)) == classes
