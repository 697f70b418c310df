# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the stratified draw, by counting."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from monai_essa.data.lists.splits import stratified_draw

ITEMS: list[dict[str, Any]] = [{"image": str(i), "label": [0, 1] if i % 4 == 0 else [1, 0]} for i in range(40)]


@pytest.mark.parametrize("limit", [4, 8, 20, 40])
def test_each_class_keeps_its_share(limit: int) -> None:
    counts = Counter(str(item["label"]) for item in stratified_draw(ITEMS, limit, 0, "list"))
    assert counts == {"[0, 1]": limit // 4, "[1, 0]": 3 * limit // 4}


def test_a_draw_repeats_by_its_seed_and_smaller_ones_lie_within() -> None:
    twelve = stratified_draw(ITEMS, 12, 3, "list")
    assert stratified_draw(ITEMS, 5, 3, "list") == twelve[:5]
    assert stratified_draw(ITEMS, 12, 4, "list") != twelve
    assert len({item["image"] for item in twelve}) == 12


@pytest.mark.parametrize("limit", [0, 41])
def test_a_limit_beyond_the_list_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match=f"limit={limit}: expected 1 to 40, the number of items in list"):
        stratified_draw(ITEMS, limit, 0, "list")
