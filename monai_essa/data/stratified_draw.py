# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Few labels, drawn so that the classes keep their proportion."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

__all__ = ["stratified_draw"]


def stratified_draw(items: Sequence[dict[str, Any]], limit: int, seed: int, where: str) -> list[dict[str, Any]]:
    """Draw items with class labels, each class in proportion to its share.

    The k-th of a class's n items, shuffled, stands at (k - 1/2) / n; those that stand first are drawn. So a smaller
    limit gives a subset of a larger one.

    Args:
        items: each with a ``label``, a number or a list of them.
        limit: how many.
        seed: of the shuffle.
        where: file and section, for the error line.

    Returns:
        That many of the items.

    Raises:
        ValueError: if ``limit`` is not between 1 and the number of items.

    Example:
        >>> labelled = [{"image": str(number), "label": number % 2} for number in range(10)]
        >>> sorted(item["label"] for item in stratified_draw(labelled, 4, seed=0, where="list"))
        [0, 0, 1, 1]
    """
    if not 0 < limit <= len(items):
        raise ValueError(f"limit={limit}: expected 1 to {len(items)}, the number of items in {where}")
    shuffled = random.Random(seed).sample(list(items), len(items))
    sizes = Counter(str(item["label"]) for item in items)
    seen: Counter[str] = Counter()
    placed = []
    for item in shuffled:
        label = str(item["label"])
        placed.append(((seen[label] + 0.5) / sizes[label], item))
        seen[label] += 1
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])[:limit]]
