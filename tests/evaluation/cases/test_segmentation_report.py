# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the scores of structures against distances written out, and for what a report counts."""

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
from scipy.ndimage import binary_erosion

from monai_essa.evaluation import SegmentationReport, score_structure

LABELS = {"background": 0, "tumour": 2, "liver": 1}
SPACING = (0.5, 2.0, 1.5)


def blob(seed: int, dims: int) -> torch.Tensor:
    """A ball whose surface is rough."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(16)] * dims, indexing="ij"), -1)
    distance = np.sqrt(((grid - rng.uniform(6, 9, dims)) ** 2).sum(-1)) + rng.uniform(-1, 1, (16,) * dims)
    return torch.as_tensor(distance < 4.5)


def surface(mask: torch.Tensor, spacing: tuple[float, ...]) -> np.ndarray:
    """Places of the voxels that an erosion takes away, in mm."""
    inner = binary_erosion(mask.numpy())
    return np.argwhere(mask.numpy() & ~inner) * spacing


@pytest.mark.parametrize("dims", [2, 3])
def test_distances_are_those_between_all_pairs_of_surface_voxels(dims: int) -> None:
    predicted, truth, spacing = blob(0, dims), blob(1, dims), SPACING[:dims]
    one, other = surface(predicted, spacing), surface(truth, spacing)
    table = np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1))
    ways = table.min(1), table.min(0)
    scores = score_structure(predicted, truth, spacing, tolerance=1.0)
    assert scores.hd95 == pytest.approx(max(np.percentile(way, 95) for way in ways), abs=1e-5)
    near = sum((way <= 1.0).sum() for way in ways) / sum(map(len, ways))
    assert 0 < near < 1 and scores.nsd == pytest.approx(near, abs=1e-6)
    both = (predicted & truth).sum()
    assert scores.dice == pytest.approx(float(2 * both / (predicted.sum() + truth.sum())), abs=1e-6)
    unit = np.prod(spacing) / 1000 if dims == 3 else np.prod(spacing)
    assert scores.volume == pytest.approx(float(predicted.sum()) * unit)
    assert scores.volume_difference == pytest.approx(float(predicted.sum() - truth.sum()) * unit)


def test_a_structure_at_the_margin_of_the_field_has_a_surface_there() -> None:
    whole = torch.ones(6, 6, 6, dtype=torch.bool)
    scores = score_structure(whole, whole, (1, 1, 1))
    assert (scores.outcome, scores.dice, scores.nsd, scores.hd95) == ("found", 1.0, 1.0, 0.0)


def test_what_is_missed_is_zero_and_what_is_not_there_is_undefined() -> None:
    nothing, something = torch.zeros(8, 8, 8, dtype=torch.bool), blob(0, 3)[:8, :8, :8]
    missed, added, absent = (
        score_structure(*pair, (1, 1, 1)) for pair in ((nothing, something), (something, nothing), (nothing, nothing))
    )
    assert [scores.outcome for scores in (missed, added, absent)] == ["missed", "added", "absent"]
    assert (missed.dice, missed.nsd) == (0, 0) and np.isnan(missed.hd95)
    assert np.isnan([added.dice, added.nsd, added.hd95, added.volume_difference, absent.dice]).all()
    assert added.volume > 0 and absent.volume == 0


def item(number: int) -> dict[str, Any]:
    """Cases of 2 mm voxels: the liver is always found, the tumour found, missed, added and absent in turn."""
    liver, tumour = torch.zeros(2, 1, 12, 12, 12)
    liver[:, 2:8, 2:8, 2:8] = 1
    tumour[:, 3:5, 3:5, 3:5] = 1
    there, seen = [(1, 1), (1, 0), (0, 1), (0, 0)][number % 4]
    meta = {"filename_or_obj": f"/scans/p{number // 2}_{'LR'[number % 2]}.nii.gz"}
    affine = torch.eye(4) * 2
    return {
        "image": MetaTensor(torch.zeros(1, 4, 4, 4), meta=meta),
        "pred": MetaTensor(liver + tumour * seen, affine=affine),
        "label": MetaTensor(liver + tumour * there, affine=affine),
    }


def report(folder: Path, count: int, **values: Any) -> dict[str, Any]:
    engine = Engine(lambda _, batch: [item(number) for number in batch])
    SegmentationReport(folder, LABELS, **values).attach(engine)
    engine.run([range(count)])
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_each_case_and_structure_is_a_row_and_each_outcome_is_counted(tmp_path: Path) -> None:
    record = report(tmp_path / "test", 8)
    rows = list(csv.DictReader((tmp_path / "test" / "cases.csv").open(encoding="utf-8")))
    assert [row["class"] for row in rows] == ["liver", "tumour"] * 8
    assert (record["cases"], record["patients"], record["units"]) == (8, 4, {"hd95": "mm", "volume": "ml"})
    assert record["classes"]["tumour"]["cases"] == {"found": 2, "missed": 2, "added": 2, "absent": 2}
    assert record["classes"]["liver"]["cases"] == {"found": 8, "missed": 0, "added": 0, "absent": 0}
    assert (record["classes"]["tumour"]["dice"]["cases"], record["classes"]["tumour"]["hd95"]["cases"]) == (4, 2)
    assert record["classes"]["tumour"]["dice"]["value"] == pytest.approx(0.5)
    assert rows[1]["label_volume_ml"] == "0.064000" and rows[3]["hd95_mm"] == "" and rows[3]["dice"] == "0.000000"
    case_means = [np.nanmean([float(row["dice"] or "nan") for row in rows[2 * n : 2 * n + 2]]) for n in range(8)]
    assert record["metrics"]["dice"]["value"] == pytest.approx(np.mean(case_means), abs=1e-6)


def test_patients_of_the_list_count_and_a_second_run_starts_over(tmp_path: Path) -> None:
    patients = {f"/scans/p{number // 2}_{'LR'[number % 2]}.nii.gz": "one" for number in range(4)}
    record = report(tmp_path, 4, patients=patients)
    assert record["patients"] == 1
    assert "no_interval" in record["metrics"]["dice"]
    assert report(tmp_path, 2)["cases"] == 2


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_length_is_refused(tolerance: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tolerance: expected mm, or pixels of 2-D images, from 0 on, got"):
        SegmentationReport(tmp_path, LABELS, tolerance)
