# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The rows that stand for a product of overlays hold every pair, and are few."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.bundles.all_pairs import all_pairs


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3, 2), (4, 10, 7, 4, 2), (5, 5, 5, 5)])
def test_every_two_choices_meet_in_few_rows(sizes: tuple[int, ...]) -> None:
    factors = [[f"{name}{number}" for number in range(size)] for name, size in zip("abcde", sizes, strict=False)]
    rows = all_pairs(factors)
    for one, other in combinations(range(len(sizes)), 2):
        assert {(row[one], row[other]) for row in rows} == set(product(factors[one], factors[other]))
    first, second = sorted(sizes)[-2:]
    assert first * second <= len(rows) <= 2 * first * second
    assert rows == all_pairs(factors)
