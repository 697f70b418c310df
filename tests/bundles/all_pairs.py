# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Rows of choices in which every two choices meet: far fewer than the product, and the same ones each time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TypeVar

Choice = TypeVar("Choice")


def all_pairs(factors: Sequence[Sequence[Choice]]) -> list[tuple[Choice, ...]]:
    """Return rows of one choice per factor, so that each choice meets each choice of every other factor.

    Greedy: a row begins with a pair that has not met yet, and every further factor takes the choice that completes the
    most such pairs. Ties go to the choice that comes first.
    """
    sizes = [len(choices) for choices in factors]
    places = [(factor, number) for factor, size in enumerate(sizes) for number in range(size)]
    missing = {pair for pair in combinations(places, 2) if pair[0][0] != pair[1][0]}
    rows = []
    while missing:
        row = dict(min(missing))
        for factor in range(len(sizes)):
            if factor not in row:
                row[factor] = _most_useful(factor, sizes[factor], row, missing)
        chosen = sorted(row.items())
        missing -= set(combinations(chosen, 2))
        rows.append(tuple(factors[factor][number] for factor, number in chosen))
    return rows


def _most_useful(factor: int, size: int, row: dict[int, int], missing: set[tuple[tuple[int, int], ...]]) -> int:
    def completed(number: int) -> int:
        return sum(tuple(sorted([(factor, number), place])) in missing for place in row.items())

    return max(range(size), key=completed)
