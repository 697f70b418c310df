# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The floors write the tables of evaluate.yaml into a run of their own, which is finished, and nothing trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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


def test_the_ridge_segments_from_the_features_of_the_base(
    volumes: Path, stages: Stages, run_bundle: RunBundle, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"dataset_dir": volumes, "validation_section": "validation"}
    values |= {"pretrained": stages.pretrained / "model.pt", "output_dir": tmp_path / "run"}
    run_bundle("essa_segmentation", "train.yaml", "evaluate.yaml", "floor_features.yaml", **values)
    run = read_run(tmp_path / "run")
    assert len(run.scores) == 2 and all(0.3 < score < 1 for score in run.scores.values())
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert (record["status"], record["notes"]) == ("finished", {"floor": "features"})


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


def test_the_votes_lie_on_the_grid_of_the_network(volumes: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    files = ("train.yaml", "evaluate.yaml", "floor_atlas.yaml")
    means = []
    for spacing in ([1.0, 1.0, 1.0], [2.0, 1.0, 2.0]):
        folder = tmp_path / f"{spacing[0]}"
        values = {"validation_section": "validation", "output_dir": folder, "spacing": spacing, "axcodes": "LPS"}
        run_bundle("essa_segmentation", *files, dataset_dir=volumes, **values)
        means.append(sum(read_run(folder).scores.values()) / 2)
    assert means[1] == pytest.approx(means[0], abs=0.1)


def test_the_atlas_votes_on_pictures_of_any_size(run_bundle: RunBundle, tmp_path: Path) -> None:
    sections: dict[str, list[dict[str, str]]] = {"training": [], "test": []}
    for number, size in enumerate((20, 28, 36, 44)):
        mask = np.zeros((size, size), dtype=np.uint8)
        mask[size // 4 : size // 2, size // 4 : 3 * size // 4] = 1
        Image.fromarray(60 + 100 * mask).save(tmp_path / f"i{number}.png")
        Image.fromarray(mask).save(tmp_path / f"l{number}.png")
        item = {"image": f"i{number}.png", "label": f"l{number}.png"}
        sections["training" if number < 3 else "test"].append(item)
    (tmp_path / "dataset.json").write_text(json.dumps(sections), encoding="utf-8")
    files = ("train.yaml", "images_2d.yaml", "evaluate.yaml", "floor_atlas.yaml")
    values = {"img_size": [32, 32], "labels": {"background": 0, "part": 1}, "output_dir": tmp_path / "run"}
    run_bundle("essa_segmentation", *files, dataset_dir=tmp_path, **values)
    assert list(read_run(tmp_path / "run").scores.values()) == pytest.approx([1.0], abs=0.1)
