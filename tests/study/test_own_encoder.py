# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A study that starts from weights of an encoder that MONAI lacks, described in the user's overlay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_essa.planning.overlay import described_network, read_overlay
from monai_essa.planning.study_plan import read_plan
from monai_essa.study.run import run_study
from monai_essa.study.splits import SplitRequest
from monai_essa.study.terms.request import AdaptRequest, Preset, StudyRequest
from tests.anatomy.own_encoders import OwnMaps
from tests.study.tiny import TIMINGS, run_apart

OVERLAY = """
img_size: [32, 32]
+intensity:
- {_target_: Resized, keys: image, spatial_size: '@img_size', mode: bilinear}
encoder_def:
  _target_: monai_essa.anatomy.describe
  network: {_target_: tests.anatomy.own_encoders.OwnMaps}
  anatomy: {_target_: tests.anatomy.own_encoders.maps_anatomy}
"""


@pytest.fixture
def request_of_own(tmp_path: Path) -> AdaptRequest:
    """Ten images of each class in two sizes of square, weights, and an overlay that builds the encoder of them."""
    draw, images = np.random.default_rng(0), []
    for number in range(20):
        side = 6 + 10 * (number % 2)
        images.append(np.pad(np.full((side, side), 200), (28 - side) // 2) + draw.integers(0, 40, (28, 28)))
    stacked, labels = np.stack(images).astype(np.uint8), np.arange(20)[:, None] % 2
    parts = {"train": slice(0, 12), "val": slice(12, 14), "test": slice(14, 20)}
    arrays = {f"{name}_images": stacked[part] for name, part in parts.items()}
    np.savez(tmp_path / "own.npz", **arrays, **{f"{name}_labels": labels[part] for name, part in parts.items()})
    torch.save(OwnMaps().state_dict(), tmp_path / "own.pt")
    (tmp_path / "own.yaml").write_text(OVERLAY, encoding="utf-8")
    overlay = read_overlay(tmp_path / "own.yaml")
    values = {**overlay.values, "batch_size": 2}
    network = described_network(overlay, values)
    preset = Preset(("ssa", "no_ssa", "full", "head", "scratch", "full_ssa"), 2, network, TIMINGS, "a test")
    study = StudyRequest(str(tmp_path / "own.pt"), values=values, preset=preset, overlay=overlay)
    return AdaptRequest(tmp_path / "own.npz", split=SplitRequest(repeats=1), study=study)


@pytest.mark.full
@pytest.mark.slow  # sixteen stages
def test_every_arm_is_trained_tested_and_handed_over(request_of_own: AdaptRequest, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    assert run_apart(request_of_own, folder) == 0
    plan = read_plan(folder)
    assert not list((folder / "stages").glob("*.failed")) and plan.request["overlay"]["img_size"] == [32, 32]
    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    scored = {arm["name"] for arm in verdict["arms"]}
    assert scored == {"ssa", "no_ssa", "full", "head", "scratch", "full_ssa", "floor_voxels", "floor_features"}
    ssa = next(stage for stage in plan.stages if stage.kind == "ssa" and stage.arm is None)
    learned = json.loads((folder / "runs" / ssa.run / "run.json").read_text(encoding="utf-8"))["settings"]
    assert learned["objective"] == "SimMIM"
    weights = torch.load(folder / "export" / "model.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert (folder / "export" / "overlay.yaml").is_file() and (folder / "report.html").is_file()


def test_another_content_of_the_overlay_is_another_request(request_of_own: AdaptRequest) -> None:
    changed = replace(request_of_own.study.overlay, parts={})
    other = replace(request_of_own, study=replace(request_of_own.study, overlay=changed))
    assert other.canonical() != request_of_own.canonical()


def test_an_encoder_without_a_decoder_is_refused_for_a_segmentation(
    request_of_own: AdaptRequest, hippocampus_tiny: Path, tmp_path: Path
) -> None:
    request = replace(request_of_own, scans=hippocampus_tiny, split=SplitRequest(label_count=2, repeats=1))
    with pytest.raises(RuntimeError, match="own.yaml describes an encoder, which has no decoder for a segmentation"):
        run_study(request, tmp_path / "study")
