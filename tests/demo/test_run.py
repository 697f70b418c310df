# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The demo from end to end, at the smallest size that runs every stage."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from monai_essa.demo import DemoSize, run_demo
from monai_essa.demo import run as run_module
from monai_essa.demo.cohort import CohortSize

COHORT = CohortSize(source=2, unlabeled=2, training=2, validation=1, test=2)
SIZE = DemoSize(COHORT, hidden_size=24, feature_size=8, steps=2)
finished_demo = pytest.mark.slow(reason="the first of these tests runs the demo: a base, five trainings, their tests")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nilearn")
    output = tmp_path_factory.mktemp("run") / "demo"
    assert _demo_apart(output) == 0
    return output


def _demo_apart(output: Path) -> int:
    """Run the demo in a process of its own, as its command does."""
    process = multiprocessing.get_context("forkserver").Process(target=_main, args=(output,))
    process.start()
    process.join()
    return process.exitcode or 0


def _main(output: Path) -> None:
    os._exit(run_demo(None, output, 0, SIZE))


@finished_demo
def test_the_verdict_compares_three_arms_and_is_provisional(finished: Path) -> None:
    verdict = json.loads((finished / "study" / "verdict.json").read_text(encoding="utf-8"))
    assert {arm["name"] for arm in verdict["arms"]} == {"ssa", "no_ssa", "scratch", "floor_atlas", "floor_features"}
    assert "the demo: one repeat" in verdict["protocol"]["provisional"]
    assert verdict["protocol"]["base"] == "given weights"


@finished_demo
def test_the_report_and_a_bundle_are_there(finished: Path) -> None:
    page = (finished / "study" / "report.html").read_text(encoding="utf-8")
    assert "not a medical device" in page
    assert (finished / "study" / "export" / "adapted_segmentation" / "models" / "model.pt").is_file()


@finished_demo
def test_a_finished_demo_runs_nothing_again(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "study" / "runs").rglob("model.pt")}
    assert _demo_apart(finished) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_missing_package_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "find_spec", lambda name: None if name == "jinja2" else "found")

    with pytest.raises(ImportError, match=r'the demo needs jinja2: pip install "monai_essa\[demo\]"'):
        run_demo(None, tmp_path / "demo", 0, SIZE)

    assert not (tmp_path / "demo").exists()


def test_a_folder_that_is_no_data_set_leaves_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such datalist"):
        run_demo(tmp_path, tmp_path / "demo", 0, SIZE)
