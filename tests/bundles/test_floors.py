# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The floors write the tables of evaluate.yaml into a run of their own, which is finished, and nothing trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_essa.error_line import root_cause
from monai_essa.evaluation import read_run
from tests.bundles.conftest import RunBundle, Stages


def test_the_atlas_votes_on_the_voxels_of_the_file(volumes: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    files = ("train.yaml", "evaluate.yaml", "floor_atlas.yaml")
    values: dict[str, Any] = {
        "dataset_dir": volumes,
        "validation_section": "validation",
        "output_dir": tmp_path / "run",
    }
    run_bundle("essa_segmentation", *files, seed=7, **values)
    run = read_run(tmp_path / "run")
    assert len(run.scores) == 2 and run.seed == 7
    assert all(0.3 < score < 1 for score in run.scores.values())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", "test"}
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert (record["status"], record["notes"]) == ("finished", {"floor": "atlas"})
    with pytest.raises(Exception) as caught:
        run_bundle("essa_segmentation", *files, **values)
    assert "holds a finished run" in str(root_cause(caught.value))


@pytest.mark.parametrize("floor", ["voxels", "features"])
def test_the_ridge_predicts_each_image(
    floor: str, classes: Path, stages: Stages, run_bundle: RunBundle, tmp_path: Path
) -> None:
    overlays = ("floor_voxels.yaml", "floor_features.yaml")[: 1 if floor == "voxels" else 2]
    values: dict[str, Any] = {"datalist": classes, "validation_section": "validation", "output_dir": tmp_path / "run"}
    if floor == "features":
        values["pretrained"] = stages.pretrained / "model.pt"
    run_bundle("essa_classification", "train.yaml", "evaluate.yaml", *overlays, **values)
    run = read_run(tmp_path / "run")
    assert len(run.scores) == 2 and all(0 <= score <= 1 for score in run.scores.values())
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["notes"] == {"floor": floor}


def test_frozen_features_need_a_base(classes: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    files = ("train.yaml", "evaluate.yaml", "floor_voxels.yaml", "floor_features.yaml")
    with pytest.raises(Exception) as caught:
        run_bundle(
            "essa_classification", *files, datalist=classes, validation_section="validation", output_dir=tmp_path
        )
    assert "start 'encoder' needs pretrained=FILE" in str(root_cause(caught.value))
