# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The independent check of a study: it agrees with what our metrics and statistics say, and finds a planted fault."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.check_study import _main, check_study
from monai_essa.cli import main
from monai_essa.evaluation.baselines.rivals import masks_dice, write_dice_table
from monai_essa.study.outcome import write_verdict

PATIENTS, REPEATS = 7, 3
ARMS = ("ssa", "no_ssa", "full")
Study = Callable[..., Path]


def write_map(path: Path, ids: np.ndarray) -> str:
    """Write (x, y) as a picture and (x, y, z) as NIfTI; a picture has 255 in place of 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(np.where(ids == 1, 255, ids).astype(np.uint8).T).save(path)
    else:
        affine = np.eye(4) if ids.ndim == 2 else np.diag([1.0, 2.0, 1.5, 1.0])
        nib.save(nib.Nifti1Image(ids.astype(np.uint8), affine), path)
    return str(path)


def listed(images: list[str], labels: list[Any]) -> list[dict[str, Any]]:
    """Two images of the first patient, one of each other."""
    patients = [f"p{max(0, number - 1)}" for number in range(len(images))]
    cases = zip(images, labels, patients, strict=True)
    return [{"image": image, "label": label, "patient": patient} for image, label, patient in cases]


def write_plan(
    folder: Path, task: str, labels: dict[str, int], metric: str, folds: int, further: int | None = None
) -> list[dict[str, Any]]:
    primaries = [["ssa", "no_ssa", "superiority"], ["no_ssa", "full", "non-inferiority"]]
    protocol = {"task": task, "repeats": REPEATS, "folds": folds, "labels": 12, "margin": 0.02, "metric": metric}
    protocol |= {"primaries": primaries, "rate_check": "none", "provisional": None, "transductive": False}
    protocol |= {} if further is None else {"further_labels": [further]}
    places = [(arm, repeat, fold) for arm in ARMS for repeat in range(1, REPEATS + 1) for fold in range(1, folds + 1)]
    stages = [
        {"name": f"{a}-{r}-{f}", "kind": "test", "arm": a, "repeat": r, "fold": f, "run": f"{a}-{r}-{f}"}
        | {"needs": [], "seconds": 1.0}
        for a, r, f in places
    ]
    if further is not None:
        stages += [stage | dict.fromkeys(("name", "run"), f"{stage['name']}-{further}") | {"labels": further}
                   for stage in stages]  # fmt: skip
    plan = {"version": 1, "request": {}, "protocol": protocol | {"base": "given weights"}, "dropped": []}
    plan |= {"arms": [{"name": arm, "title": arm, "kind": "trained"} for arm in ARMS], "images": {"labels": labels}}
    (folder / "stages").mkdir(parents=True)
    for stage in stages:
        (folder / "stages" / f"{stage['name']}.done").write_text('{"seconds": 1.0}', encoding="utf-8")
        run = folder / "runs" / stage["run"]
        (run / "test").mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"status": "finished", "seed": stage["repeat"]}), encoding="utf-8")
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan | {"stages": stages}), encoding="utf-8")
    return stages


def write_datalist(folder: Path, items: list[dict[str, Any]], folds: int, **about: Any) -> None:
    tested = [[item for item in items if int(item["patient"][1:]) % folds == number] for number in range(folds)]
    parts = {f"fold_{number}": {"test": part} for number, part in enumerate(tested, 1)}
    sections = {f"repeat_{repeat}": parts for repeat in range(1, REPEATS + 1)}
    (folder / "datalist.json").write_text(json.dumps(about | sections), encoding="utf-8")


@pytest.fixture
def segmentation(tmp_path: Path) -> Study:
    """Writes a study with label maps, its tables by our own Dice; a class is missing in one label, all in another."""

    def make(suffix: str, size: tuple[int, ...], folds: int = 1, **about: Any) -> Path:
        rng, folder = np.random.default_rng(0), tmp_path / "study"
        truth = [rng.integers(0, 3, size) for _ in range(PATIENTS + 1)]
        truth[3][truth[3] == 2] = 0
        truth[5][:] = 0
        names = [f"scan_{number}" for number in range(len(truth))]
        labels = [write_map(tmp_path / "labels" / f"{n}{suffix}", ids) for n, ids in zip(names, truth, strict=True)]
        images = [str(tmp_path / "images" / f"{name}{suffix}") for name in names]
        stages = write_plan(
            folder, "segmentation", {"background": 0, "a": 1, "b": 2}, "mean Dice over the defined classes", folds
        )
        items = listed(images, labels)
        write_datalist(folder, items, folds, **about)
        for stage in stages:
            run = folder / "runs" / stage["run"]
            cases = [n for n, item in enumerate(items) if int(item["patient"][1:]) % folds == stage["fold"] - 1]
            for number in cases:
                wrong = rng.random(size) < 0.1 + 0.1 * ARMS.index(stage["arm"]) + 0.02 * number
                found = np.where(wrong, rng.integers(0, 3, size), truth[number])
                write_map(run / "test" / "masks" / f"{names[number]}.nii.gz", found)
            tested = [images[number] for number in cases]
            write_dice_table(masks_dice(run / "test" / "masks", tested, folder / "datalist.json", 3), run)
        write_verdict(folder)
        return folder

    return make


@pytest.fixture
def classification(tmp_path: Path) -> Path:
    rng, folder, names = np.random.default_rng(0), tmp_path / "study", ["ill", "well"]
    images, labels = [f"/scans/{number}.png" for number in range(9)], [number % 2 for number in range(9)]
    stages = write_plan(folder, "classification", {"ill": 0, "well": 1}, "Brier score, mean over the classes", 1, 5)
    write_datalist(folder, listed(images, labels), 1)
    for stage in stages:
        with (folder / "runs" / stage["run"] / "test" / "predictions.csv").open("w", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["image", "label", *names])
            for image, label in zip(images, labels, strict=True):
                chance = round(float(rng.uniform()), 6)
                table.writerow([image, names[label], f"{chance:.6f}", f"{1 - chance:.6f}"])
    write_verdict(folder)
    return folder


def test_volumes_are_confirmed_and_one_voxel_that_was_changed_is_found(
    segmentation: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = segmentation(".nii.gz", (6, 5, 4))
    check = check_study(folder)
    assert check.largest < 1e-6
    assert {kind: value for kind, value in check.deviations.items() if "number" in kind} == {"number of patients": 0}
    assert set(check.repeats) == set(ARMS) and all(len(means) == REPEATS for means in check.repeats.values())
    comparisons = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))["comparisons"]
    assert all(each["low"] is not None for each in comparisons), "an interval has to be there to be confirmed"

    path = folder / "runs" / "ssa-2-1" / "test" / "masks" / "scan_4.nii.gz"
    ids = np.asanyarray(nib.load(path).dataobj).copy()
    ids[0, 0, 0] = (ids[0, 0, 0] + 1) % 3
    write_map(path, ids)
    assert _main([str(folder)]) == 1
    assert "ABOVE 1e-06" in capsys.readouterr().out


def test_pictures_with_grey_values_are_confirmed(segmentation: Study) -> None:
    assert check_study(segmentation(".png", (7, 5), label_map={"255": 1})).largest < 1e-6


def test_a_classification_is_confirmed(classification: Path) -> None:
    check = check_study(classification)
    assert check.largest < 1e-6
    assert set(check.repeats) == {*ARMS, *(f"{arm}, 5 labels" for arm in ARMS)}


def test_a_changed_verdict_is_found(classification: Path) -> None:
    path = classification / "verdict.json"
    verdict = json.loads(path.read_text(encoding="utf-8"))
    verdict["comparisons"][0]["high"] += 2e-6
    path.write_text(json.dumps(verdict), encoding="utf-8")
    deviations = check_study(classification).deviations
    assert {kind for kind, value in deviations.items() if value > 1e-6} == {"interval of a comparison"}


def test_folds_are_confirmed_and_compare_on_the_runs_says_the_same(segmentation: Study, tmp_path: Path) -> None:
    """With as many arms as there are primary comparisons and one more, its intervals have their level."""
    folder = segmentation(".nii.gz", (6, 5, 4), folds=3)
    assert check_study(folder).largest < 1e-6
    own = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    arms = [f"{name}={folder}/runs/{name}-*" for name in ("ssa", "no_ssa", "full")]
    listed = ["--datalist", str(folder / "datalist.json")]
    assert main(["compare", *arms, *listed, "--out", str(tmp_path / "compared.json")]) == 0
    compared = json.loads((tmp_path / "compared.json").read_text(encoding="utf-8"))
    for name in ("mean", "low", "high", "n"):
        assert [row[name] for row in compared["arms"]] == pytest.approx([row[name] for row in own["arms"]], abs=1e-6)
    for name in ("estimate", "low", "high"):
        assert compared["comparisons"][0][name] == pytest.approx(own["comparisons"][0][name], abs=1e-6)
