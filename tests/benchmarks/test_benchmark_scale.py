# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for what a benchmark measures."""

from __future__ import annotations

import pytest

from benchmarks.reference_work import REFERENCE_WORK
from benchmarks.scale import KINDS, full_scale, quick_scale


def test_every_reference_work_belongs_to_one_kind():
    works = [[work.name for work in full_scale().only([kind]).works] for kind in KINDS]
    assert sorted(sum(works, [])) == sorted(work.name for work in REFERENCE_WORK)
    assert all(works)


@pytest.mark.parametrize(("kind", "timed", "networks"), [("vit", 2, 1), ("unetr", 0, 1), ("swin", 0, 0), ("mae", 0, 0)])
def test_a_kind_keeps_its_own(kind, timed, networks):
    scale = full_scale().only([kind])
    assert (len(scale.timed), len(scale.networks)) == (timed, networks)
    assert [growth.name for growth in scale.growths] == {"vit": ["ViT-B/16"], "swin": ["SwinUNETR-48"]}.get(kind, [])


def test_the_quick_works_are_tiny():
    for work in quick_scale().works:
        assert sum(parameter.numel() for parameter in work.stock().parameters()) < 5e6
