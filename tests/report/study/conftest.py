# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Folders of studies: one whose trainings were run, as far as one repeat goes, and one of fabricated tables."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from monai_essa.evaluation.run_scores import BRIER, DICE
from monai_essa.study.outcome import write_verdict
from tests.bundles.conftest import LABELS, open_bundle, run_bundle, volumes

__all__ = ["open_bundle", "run_bundle", "volumes"]

ARMS = {"ssa": "SSA, then PEFT", "no_ssa": "PEFT"}
REPEATS = 3
PATIENT = "Smith"  # part of a name that no report may hold


def protocol(task: str, **changes: Any) -> dict[str, Any]:
    return {
        "task": task,
        "estimand": "mean paired difference on a new patient of this site",
        "unit": "patient, as the data list names it",
        "design": "fixed",
        "repeats": REPEATS,
        "folds": 1,
        "labels": 12,
        "patients": 2,
        "unlabeled": 6,
        "margin": 0.02,
        "metric": DICE if task == "segmentation" else BRIER,
        "primaries": [["ssa", "no_ssa", "superiority"]],
        "rate_check": "none",
        "provisional": None,
        "transductive": False,
        "base": "made here, SSA on the same scans",
    } | changes


def write_plan(folder: Path, task: str, classes: dict[str, int], stages: list[dict[str, Any]], **changes: Any) -> None:
    plan = {
        "version": 1,
        "request": {"scans": "/data/Smith_scans", "labels": "/data/labels", "hours": 1, "max_epochs": 1},
        "protocol": protocol(task, **changes),
        "arms": [{"name": name, "title": title, "kind": "trained"} for name, title in ARMS.items()],
        "dropped": [{"name": "full", "reason": "the hours are short"}],
        "stages": stages,
        "images": {"spacing": [1.0, 1.0, 1.0], "img_size": [32, 32, 32], "in_channels": 1, "labels": classes},
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")


def stage(name: str, kind: str, arm: str | None, repeat: int, run: str = "", needs: tuple[str, ...] = ()) -> dict:
    return {
        "name": name,
        "kind": kind,
        "arm": arm,
        "repeat": repeat,
        "fold": 1,
        "run": run or name,
        "needs": list(needs),
        "seconds": 1.0,
    }


def finish(folder: Path, stages: list[dict[str, Any]], seconds: float = 60.0) -> None:
    (folder / "stages").mkdir(exist_ok=True)
    for each in stages:
        (folder / "stages" / f"{each['name']}.done").write_text(json.dumps({"seconds": seconds}), encoding="utf-8")


@pytest.fixture(scope="session")
def trained_study(volumes: Path, run_bundle: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two arms: repeat 1 was trained for one epoch and tested, the other tables are drawn from it."""
    folder = tmp_path_factory.mktemp("study")
    runs = folder / "runs"
    hook = sys.excepthook
    data = {"dataset_dir": volumes}
    run_bundle("essa_ssa", "train.yaml", "method_full.yaml", output_dir=runs / "00-base", **data)
    base = data | {"pretrained": runs / "00-base" / "model.pt"}
    run_bundle("essa_ssa", "train.yaml", output_dir=runs / "01-ssa", **base)
    starts = {"ssa": {"adapter": runs / "01-ssa" / "adapter.safetensors"}, "no_ssa": {"start": "encoder"}}
    stages = [stage("00-base", "base", None, 1), stage("01-ssa", "ssa", "ssa", 1, needs=("00-base",))]
    rng = np.random.default_rng(0)
    for arm, values in starts.items():
        first = runs / f"1-{arm}"
        costed = {"costed": True} if arm == "ssa" else {}
        run_bundle("essa_segmentation", "train.yaml", output_dir=first, **base, **values, **costed)
        score = {"output_dir": first, "validation_section": "validation"}
        run_bundle("essa_segmentation", "train.yaml", "evaluate.yaml", **base, **values, **score)
        for repeat in range(1, REPEATS + 1):
            train = stage(f"{repeat}-{arm}", "train", arm, repeat, needs=("01-ssa",) if arm == "ssa" else ("00-base",))
            stages += [train, stage(f"{repeat}-{arm}-test", "test", arm, repeat, train["run"], (train["name"],))]
            if repeat > 1:
                shutil.copytree(first, runs / train["run"])
                _jitter(runs / train["run"] / "test" / "dice_raw.csv", rng)
    sys.excepthook = hook
    shutil.copy(volumes / "dataset.json", folder / "datalist.json")
    _make_absolute(folder / "datalist.json", volumes)
    write_plan(folder, "segmentation", LABELS, stages, provisional="a test of two patients", labels=4)
    finish(folder, stages)
    write_verdict(folder)
    (folder / "logs").mkdir()
    (folder / "logs" / "01-ssa.log").write_text(
        f"2026 - INFO - /data/{PATIENT}/model.pt (sha256 0123456789ab, keys 'monai', prefix ''): "
        "100.0% of the encoder loaded\n"
        "  matched        137 tensors     1,234,567 values  equal name and shape (137)\n",
        encoding="utf-8",
    )
    return folder


def _jitter(table: Path, rng: np.random.Generator) -> None:
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    changed = []
    for row in rows:
        name, *values = row.split(",")
        moved = np.clip([float(value) + 0.02 * rng.standard_normal() for value in values], 0, 1)
        changed.append(",".join([name, *(f"{value:.6f}" for value in moved)]))
    table.write_text("\n".join([header, *changed]) + "\n", encoding="utf-8")


def _make_absolute(datalist: Path, base: Path) -> None:
    content = json.loads(datalist.read_text(encoding="utf-8"))
    for items in content.values():
        for item in items:
            item.update({key: str(base / item[key]) for key in ("image", "label") if key in item})
    datalist.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def fabricated_study(tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder of a study that nobody ran: its tables, without weights; by task."""

    def make(task: str = "classification", patients: int = 12, effect: float = 0.1, **changes: Any) -> Path:
        folder = tmp_path / f"study_{task}"
        rng = np.random.default_rng(1)
        cases = [f"/data/{PATIENT}{number:03d}/scan.png" for number in range(patients)]
        stages = []
        for arm in ARMS:
            for repeat in range(1, REPEATS + 1):
                train = stage(f"{repeat}-{arm}", "train", arm, repeat)
                stages += [train, stage(f"{repeat}-{arm}-test", "test", arm, repeat, train["run"], (train["name"],))]
                gain = effect if arm == "ssa" else 0.0
                _fabricate(
                    folder / "runs" / train["run"], task, cases, 0.6 + gain + 0.05 * rng.standard_normal(patients)
                )
        labels = {"normal": 0, "ill": 1} if task == "classification" else LABELS
        write_plan(folder, task, labels, stages, patients=patients, **changes)
        finish(folder, stages)
        write_verdict(folder)
        return folder

    return make


def _fabricate(run: Path, task: str, cases: list[str], right: np.ndarray) -> None:
    (run / "test").mkdir(parents=True)
    lines = []
    for number, (case, share) in enumerate(zip(cases, np.clip(right, 0.01, 0.99), strict=True)):
        if task == "classification":
            ill = number % 2
            probability = share if ill else 1 - share
            lines.append(f"{case},{'ill' if ill else 'normal'},{1 - probability:.6f},{probability:.6f}")
        else:
            lines.append(f"{case},{share:.6f},{share / 2:.6f},{0.75 * share:.6f}")
    name, header = (
        ("predictions.csv", "image,label,normal,ill")
        if task == "classification"
        else ("dice_raw.csv", "filename,class0,class1,mean")
    )
    (run / "test" / name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
