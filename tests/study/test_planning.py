# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The plan of a study is made by the clock, on real networks and images, before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_essa.study.run import run_study
from monai_essa.study.splits import SplitRequest
from monai_essa.study.terms.request import AdaptRequest, StudyRequest

SMALL = {"img_size": [32, 32], "hidden_size": 24, "mlp_dim": 48, "num_heads": 4, "batch_size": 2}


@pytest.fixture(params=["segmentation", "classification"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Ten pictures of a bright square in two sizes, with masks or with classes."""
    draw, items = np.random.default_rng(0), []
    (tmp_path / "site").mkdir()
    for number in range(10):
        mask = np.zeros((36, 36), dtype=np.uint8)
        side = 8 + 12 * (number % 2)
        mask[6 : 6 + side, 8 : 8 + side] = 1
        picture = 150 * mask + draw.integers(0, 40, mask.shape)
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "site" / f"p{number}.png")
        Image.fromarray(mask).save(tmp_path / "site" / f"m{number}.png")
        label = f"m{number}.png" if request.param == "segmentation" else number % 2
        items.append({"image": f"p{number}.png", "label": label})
    (tmp_path / "site" / "datalist.json").write_text(json.dumps({"training": items}), encoding="utf-8")
    return tmp_path / "site"


def test_the_hours_of_a_study_are_planned_by_the_clock_and_nothing_is_written(
    site: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = AdaptRequest(
        site / "datalist.json", split=SplitRequest(repeats=3), study=StudyRequest(hours=2, values=SMALL)
    )
    assert run_study(request, tmp_path / "study", dry_run=True) == 0
    said = "".join(capfd.readouterr())
    assert "planning [5/5]: timing a test" in said and "x SSA, then PEFT: training, about" in said
    assert not (tmp_path / "study").exists()
