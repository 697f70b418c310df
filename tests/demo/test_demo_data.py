# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The demo cohort as the stages take it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_essa.data import load_datalist, unlabelled_items
from monai_essa.demo.cohort import CohortSize
from monai_essa.demo.data import cohort_data

SIZE = CohortSize(source=2, unlabeled=1, training=1, validation=1, test=2)


def test_each_section_is_in_the_datalist(tmp_path: Path) -> None:
    pytest.importorskip("nilearn")
    data = cohort_data(tmp_path / "cohort", SIZE, seed=0)

    without = {name: unlabelled_items(data.datalist, data.sections[name]) for name in ("source", "unlabeled")}
    labelled = {name: load_datalist(data.datalist, data.sections[name]) for name in ("training", "validation", "test")}
    assert {name: len(items) for name, items in (without | labelled).items()} == vars(SIZE)
    assert data.template_derived and "template-derived" in data.about[0]
