# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Tests for the report of an evaluator: rows as they came, patients by the names of files, numbers as JSON."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_essa.evaluation.cases.classification import ClassificationReport, classification_intervals

LABELS = {"mass": 1, "normal": 0}
PROBABILITIES = np.random.default_rng(0).dirichlet(np.ones(2), 60)
TRUTH = np.eye(2)[np.arange(60) % 2]


def item(number: int, suffix: str) -> dict[str, Any]:
    name = f"/data/imagesTs/p{number // 2:02d}_{'LR'[number % 2]}{suffix}"
    return {
        "image": MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": name}),
        "pred": torch.tensor(PROBABILITIES[number]),
        "label": torch.tensor(TRUTH[number]),
    }


def run(report: ClassificationReport, suffix: str = ".nii.gz") -> None:
    engine = Engine(lambda engine, batch: [item(number, suffix) for number in batch])
    report.attach(engine)
    engine.run([range(40), range(40, 60)])


def test_each_image_is_a_row_with_its_class_and_its_probabilities(tmp_path: Path) -> None:
    run(ClassificationReport(tmp_path / "test", LABELS, resamples=2))
    rows = list(csv.DictReader((tmp_path / "test" / "predictions.csv").open(encoding="utf-8")))
    assert list(rows[0]) == ["image", "label", "normal", "mass"]
    assert [row["image"] for row in rows[:2]] == ["/data/imagesTs/p00_L.nii.gz", "/data/imagesTs/p00_R.nii.gz"]
    assert [row["label"] for row in rows] == ["normal", "mass"] * 30
    np.testing.assert_allclose([[float(row["normal"]), float(row["mass"])] for row in rows], PROBABILITIES, atol=1e-6)


@pytest.mark.parametrize("suffix", [".nii.gz", ".png"])
def test_intervals_are_over_patients(suffix: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="30 patients"):
        run(ClassificationReport(tmp_path, LABELS, resamples=50, seed=3), suffix)
        patients = [str(number // 2) for number in range(60)]
        expected = classification_intervals(PROBABILITIES, TRUTH, patients=patients, resamples=50, seed=3)["auc"]
    record = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert (record["images"], record["patients"]) == (60, 30)
    got = record["metrics"]["auc"]
    np.testing.assert_allclose(
        [got["value"], got["low"], got["high"]], [expected.value, expected.low, expected.high], atol=1e-5
    )


def test_the_patients_of_the_list_count_before_names(tmp_path: Path) -> None:
    images = [item(number, ".nii.gz")["image"].meta["filename_or_obj"] for number in range(60)]
    patients = {image: f"person {number // 4}" for number, image in enumerate(images)}
    with pytest.warns(UserWarning, match="15 patients"):
        run(ClassificationReport(tmp_path, LABELS, resamples=2, patients=patients))
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["patients"] == 15


def test_a_second_run_starts_over(tmp_path: Path) -> None:
    report = ClassificationReport(tmp_path, LABELS, resamples=2)
    run(report)
    run(report)
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["images"] == 60


def test_several_classes_of_an_image_are_all_named_and_nan_is_null(tmp_path: Path) -> None:
    report = ClassificationReport(tmp_path, LABELS, multi_label=True, resamples=2)
    engine = Engine(lambda engine, batch: [item(n, ".png") | {"label": torch.ones(2)} for n in batch])
    report.attach(engine)
    engine.run([range(4)])
    assert ",normal+mass," in (tmp_path / "predictions.csv").read_text(encoding="utf-8")
    auc = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["metrics"]["auc"]
    ends = {"value": None, "low": None, "high": None}
    assert auc == ends | {"undefined_draws": 0, "no_interval": "the metric is undefined"}


def test_the_bins_of_a_reliability_diagram_are_written(tmp_path: Path) -> None:
    run(ClassificationReport(tmp_path, LABELS, resamples=2))
    bins = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["reliability"]
    assert sum(each["decisions"] for each in bins) == 60
    assert all(each["low"] < each["confidence"] <= each["high"] for each in bins)
