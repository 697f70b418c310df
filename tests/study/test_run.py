# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A study from end to end, killed and not killed: the same bits, and nothing is done twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.check_study import check_study
from monai_essa.planning.study_plan import read_plan
from monai_essa.study.run import run_study
from tests.study.tiny import killed_after, killed_at, run_apart, tiny_request

runs_a_study = pytest.mark.slow(reason="the first of these tests runs a study of six stages")


@pytest.fixture(scope="module")
def finished(hippocampus_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "study"
    assert run_apart(tiny_request(hippocampus_tiny), folder) == 0
    return folder


@runs_a_study
def test_every_stage_ends_with_its_marker_and_its_table(finished: Path) -> None:
    plan = read_plan(finished)
    assert [stage.name for stage in plan.stages] == [
        "01-r1f1-base",
        "02-r1f1-ssa",
        "03-r1f1-ssa-train",
        "04-r1f1-ssa-test",
        "05-r1f1-no-ssa-train",
        "06-r1f1-no-ssa-test",
        "07-r1f1-floor-atlas",
        "08-r1f1-floor-features",
        "refit-base",
        "refit-ssa",
        "refit-ssa-train",
        "refit-no-ssa-train",
    ]
    exported = {"refit-base", "refit-no-ssa-train"}
    for stage in (stage for stage in plan.stages if stage.kind != "refit" or stage.name in exported):
        assert json.loads((finished / "stages" / f"{stage.name}.done").read_text())["seconds"] > 0
        assert (finished / "runs" / stage.run / "run.json").is_file()
    assert not (finished / "runs" / "refit-ssa").exists(), "only what is exported is trained again"
    tables = [
        (finished / "runs" / stage.run / "test" / "dice_raw.csv")
        for stage in plan.stages
        if stage.kind in ("test", "floor")
    ]
    assert [len(table.read_text().splitlines()) for table in tables] == [4, 4, 4, 4]
    assert not list((finished / "runs").glob("*/resume"))


@runs_a_study
def test_its_numbers_follow_from_the_label_maps_that_it_keeps(finished: Path) -> None:
    check = check_study(finished)
    assert check.largest < 1e-6 and not check.left_out
    assert list(check.repeats) == ["ssa", "no_ssa", "floor_atlas", "floor_features"]


@runs_a_study
def test_a_bundle_and_a_report_are_handed_over(finished: Path) -> None:
    assert {path.name for path in (finished / "export").iterdir()} >= {"adapted_segmentation", "adapter.safetensors"}
    assert "no verdict" in json.loads((finished / "verdict.json").read_text())["sentence"].lower()


@runs_a_study
def test_the_costs_are_by_stage_and_by_arm(finished: Path) -> None:
    costs = json.loads((finished / "cost.json").read_text())
    assert set(costs["arms"]) == {"ssa", "no_ssa"}
    assert costs["arms"]["ssa"]["seconds_before"] > costs["arms"]["no_ssa"]["seconds_before"] > 0
    assert all(arm["peak_bytes"] > 1e6 for arm in costs["arms"].values())


@runs_a_study
def test_the_same_request_runs_nothing_again(finished: Path, hippocampus_tiny: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.parent.name in ("stages", "logs")}
    assert run_apart(tiny_request(hippocampus_tiny), finished) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


@runs_a_study
def test_another_request_is_refused_in_a_line(finished: Path, hippocampus_tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"^.* holds a study with values .*, not .*: give the same request"):
        run_study(tiny_request(hippocampus_tiny, lr=1.0e-2), finished)


@runs_a_study
def test_a_stage_runs_alone_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    file, alone = finished / "stages" / "03-r1f1-ssa-train.yaml", tmp_path / "alone"
    command = [sys.executable, "-m", "monai.bundle", "run", "--args_file", str(file), "--output_dir", str(alone)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    _assert_equal_models(finished / "runs" / "03-r1f1-ssa-train", alone)


@runs_a_study
def test_a_study_that_is_killed_three_times_goes_on_to_the_same_bits(
    finished: Path, hippocampus_tiny: Path, tmp_path: Path
) -> None:
    folder, request = tmp_path / "study", tiny_request(hippocampus_tiny)
    kept: dict[Path, bytes] = {}
    for stage, delay in (("01-r1f1-base", 0.0), ("03-r1f1-ssa-train", 0.3), ("06-r1f1-no-ssa-test", 0.0)):
        log = folder / "logs" / f"{stage}.log"
        killed_at(request, folder, lambda log=log, delay=delay: log.is_file() and _is_older(log, delay))
        done = set(folder.glob("stages/*.done"))
        assert all(path.read_bytes() == content for path, content in kept.items()), "a stage ran twice"
        kept = {path: path.read_bytes() for path in [*done, *(folder / "logs" / f"{p.stem}.log" for p in done)]}
    assert run_apart(request, folder) == 0

    assert all(path.read_bytes() == content for path, content in kept.items()), "a stage ran twice"
    for stage in (stage for stage in read_plan(finished).stages if stage.kind in ("base", "ssa", "train")):
        _assert_equal_models(finished / "runs" / stage.run, folder / "runs" / stage.run)
    assert (folder / "verdict.json").read_bytes() == (finished / "verdict.json").read_bytes()


@pytest.mark.full  # twenty starts; `make test-resume`
def test_a_study_that_is_killed_at_twenty_random_moments_ends_with_the_same_verdict(
    finished: Path, hippocampus_tiny: Path, tmp_path: Path
) -> None:
    folder, request, moments = tmp_path / "study", tiny_request(hippocampus_tiny), random.Random(7)
    kills = 0
    while kills < 20 and killed_after(request, folder, moments.uniform(0.1, 4.0)):
        kills += 1
    assert run_apart(request, folder) == 0
    assert kills >= 5, "it ended before it could be killed often"
    for stage in (stage for stage in read_plan(finished).stages if stage.kind in ("base", "ssa", "train")):
        _assert_equal_models(finished / "runs" / stage.run, folder / "runs" / stage.run)
    assert (folder / "verdict.json").read_bytes() == (finished / "verdict.json").read_bytes()


def _is_older(path: Path, seconds: float) -> bool:
    return time.time() - path.stat().st_mtime >= seconds


def _assert_equal_models(one: Path, two: Path) -> None:
    first, second = (torch.load(folder / "model.pt", weights_only=True) for folder in (one, two))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
