# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The floor of the demo: what a vote reaches where the answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monai_essa.demo.data import DemoData, ImageCard
from monai_essa.demo.outcome import majority_vote_dice


def test_dice_is_that_of_the_vote_on_each_test_case(write_volume: Callable[..., Path], tmp_path: Path) -> None:
    liver, nothing = np.zeros((6, 6, 6), dtype=np.uint8), np.zeros((6, 6, 6), dtype=np.uint8)
    liver[1:3] = 1
    half = liver.copy()
    half[1] = 0  # Dice with liver: 2 * 36 / (36 + 72)
    maps = {"training": [liver, liver, nothing], "test": [liver, half]}
    items = {
        section: [
            dict.fromkeys(("image", "label"), str(write_volume(tmp_path / f"{section}{number}.nii.gz", voxels)))
            for number, voxels in enumerate(volumes)
        ]
        for section, volumes in maps.items()
    }
    (tmp_path / "datalist.json").write_text(json.dumps(items), encoding="utf-8")
    card = ImageCard((1.0, 1.0, 1.0), {"background": 0, "liver": 1})
    data = DemoData(tmp_path / "datalist.json", {"training": "training", "test": "test"}, card, (), False)

    assert majority_vote_dice(data) == {"liver": pytest.approx([1.0, 2 / 3])}
