# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Recompute the numbers of a study from its predictions and labels alone, and compare them with verdict.json.

``python -m benchmarks.check_study STUDY`` prints the mean of each arm in each repeat and the largest deviation of every
kind of number, and ends with an error if one is above 1e-6. Nothing of monai_essa reads an image, scores a case or
computes an interval here, so that a fault of its metrics or statistics shows. What it leaves out, because no prediction
is in the study or another formula applies, it says: rivals, and comparisons in AUC.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import yaml
from PIL import Image
from scipy import stats

from monai_essa.bundling.prediction_files import result_names

__all__ = ["Check", "check_study"]

TOLERANCE = 1.0e-6
_LEAST_PATIENTS = 6  # for an interval


@dataclass
class Check:
    """What a check has found.

    Attributes:
        repeats: mean over patients of each arm, repeat by repeat.
        deviations: the largest absolute difference of each kind of number.
        left_out: what was not checked, and why.
    """

    repeats: dict[str, list[float]] = field(default_factory=dict)
    deviations: dict[str, float] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def largest(self) -> float:
        """Return the largest deviation of all."""
        return max(self.deviations.values(), default=math.nan)

    def add(self, kind: str, found: float | None, stated: float | None) -> None:
        """Compare two numbers; one that only one side has is infinitely far away."""
        here, there = (math.nan if value is None else float(value) for value in (found, stated))
        both = [math.isnan(here), math.isnan(there)]
        far = 0.0 if all(both) else math.inf if any(both) else abs(here - there)
        self.deviations[kind] = max(self.deviations.get(kind, 0.0), far)


def check_study(folder: Path, masks: Path | None = None) -> Check:
    """Recompute the scores of all cases, the means of all arms and the intervals of all comparisons.

    Args:
        folder: of a finished study.
        masks: a folder with the label maps of each run folder by its name; default: ``runs/NAME/test/masks``.

    Returns:
        The check.

    Raises:
        FileNotFoundError: if a file, such as a label map, is missing.
        ValueError: if the study has no arm in its verdict.
    """
    plan = yaml.safe_load((folder / "plan.yaml").read_text(encoding="utf-8"))
    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    if not verdict["arms"]:
        raise ValueError(f"{folder / 'verdict.json'} has no arm yet; let the study end")
    study = _Study(folder, plan, json.loads((folder / "datalist.json").read_text(encoding="utf-8")), masks)
    check = Check()
    rivals = [row["name"] for row in verdict["arms"] if row.get("kind") == "rival"]
    for part in (verdict, *verdict.get("efficiency", [])):  # the verdict, and each further number of labels
        labels = part.get("labels")
        names = [row["name"] for row in part["arms"] if row["name"] not in rivals]
        scores = _by_patient({name: study.repeats(name, labels, check) for name in names})
        for name, values in scores.items():
            title = name if labels is None else f"{name}, {labels} labels"
            check.repeats[title] = [float(mean) for mean in np.nanmean(values, axis=1)]
        _check_arms(check, part, scores)
        _check_comparisons(check, part, scores, study.lower_is_better)
    check.left_out += [f"rival {name}: its predictions are not in the study" for name in rivals]
    return check


@dataclass(frozen=True)
class _Study:
    folder: Path
    plan: Mapping[str, Any]
    datalist: Mapping[str, Any]
    masks: Path | None

    @property
    def lower_is_better(self) -> bool:
        return bool(self.plan["protocol"]["task"] == "classification")

    def repeats(self, arm: str, labels: int | None, check: Check) -> list[list[tuple[str, str, float]]]:
        """Return patient, image and score of each case, repeat by repeat; compare them with the tables of the tests."""
        tests = (each for each in self.plan["stages"] if each["arm"] == arm and each["kind"] in ("test", "floor"))
        stages = [each for each in tests if each.get("labels") == labels]
        found: dict[int, list[tuple[str, str, float]]] = {}
        for stage in stages:
            items = self.datalist[f"repeat_{stage['repeat']}"][f"fold_{stage['fold']}"]["test"]
            table = self._table(stage["run"])
            for item, score in zip(items, self._scores(stage["run"], items), strict=True):
                image = _first(item["image"])
                check.add("score of a case, against its table", score, table[image])
                found.setdefault(stage["repeat"], []).append((str(item["patient"]), image, score))
        return [sorted(found[repeat]) for repeat in sorted(found)]

    def _scores(self, run: str, items: Sequence[Mapping[str, Any]]) -> Iterator[float]:
        names = sorted(self.plan["images"]["labels"], key=self.plan["images"]["labels"].__getitem__)
        if self.lower_is_better:
            rows = _rows(self.folder / "runs" / run / "test" / "predictions.csv")
            chances = {row["image"]: np.array([float(row[name]) for name in names]) for row in rows}
            for item in items:
                yield float(np.mean((chances[_first(item["image"])] - _one_hot(item["label"], len(names))) ** 2))
            return
        place = self.folder / "runs" / run / "test" / "masks" if self.masks is None else self.masks / run
        files = result_names([_first(item["image"]) for item in items])
        for item in items:
            mask = _voxels(str(place / f"{files[_first(item['image'])]}.nii.gz"))
            yield _mean_dice(mask, self._ids(item["label"]), len(names))

    def _ids(self, label: str) -> np.ndarray:
        """Return a label map with the ids that its values stand for."""
        values = np.rint(_voxels(label))
        ids = values.copy()
        for value, number in self.datalist.get("label_map", {}).items():
            ids[values == float(value)] = number
        return ids

    def _table(self, run: str) -> dict[str, float]:
        """Return the score of each case as the test wrote it; of a classification, the table is the prediction."""
        folder = self.folder / "runs" / run / "test"
        if self.lower_is_better:
            names = sorted(self.plan["images"]["labels"], key=self.plan["images"]["labels"].__getitem__)
            return {row["image"]: _brier_of(row, names) for row in _rows(folder / "predictions.csv")}
        return {row["filename"]: float(row["mean"]) for row in _rows(folder / "dice_raw.csv")}


def _check_arms(check: Check, verdict: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> None:
    for row in (row for row in verdict["arms"] if row["name"] in scores):
        values = scores[row["name"]][:, np.isfinite(scores[row["name"]]).all(axis=0)]
        check.add("number of patients", values.shape[1], row["n"])
        mean, half = _interval(values, 0.95)
        check.add("mean of an arm", mean, row["mean"])
        for name, end in (("low", max(0.0, mean - half)), ("high", min(1.0, mean + half))):
            check.add("interval of an arm", math.nan if math.isnan(half) else end, row[name])


def _check_comparisons(
    check: Check, verdict: Mapping[str, Any], scores: Mapping[str, np.ndarray], lower_is_better: bool
) -> None:
    for row in verdict["comparisons"]:
        pair = f"{row['a']} against {row['b']}"
        if row.get("metric") or not {row["a"], row["b"]} <= scores.keys():
            check.left_out.append(f"{pair}: " + (f"in {row['metric']}" if row.get("metric") else "of a rival"))
            continue
        differences = (scores[row["a"]] - scores[row["b"]]) * (-1 if lower_is_better else 1)
        differences = differences[:, np.isfinite(differences).all(axis=0)]
        mean, half = _interval(differences, row["level"])
        check.add("estimate of a comparison", mean, row["estimate"])
        for name, end in (("low", mean - half), ("high", mean + half), ("decidable", half)):
            check.add("interval of a comparison", end, row[name])
        for found, stated in zip(differences.mean(axis=0), row["differences"], strict=True):
            check.add("difference of a patient", found, stated)


def _by_patient(arms: Mapping[str, Sequence[Sequence[tuple[str, str, float]]]]) -> dict[str, np.ndarray]:
    """Return (R, N) means over the cases of each patient; a case without a score in some run counts in none."""
    runs = [repeat for repeats in arms.values() for repeat in repeats]
    undefined = {image for run in runs for _, image, score in run if math.isnan(score)}
    patients = sorted({patient for patient, _, _ in runs[0]})

    def row(run: Sequence[tuple[str, str, float]]) -> list[float]:
        held = {patient: [s for p, image, s in run if p == patient and image not in undefined] for patient in patients}
        return [float(np.mean(values)) if values else math.nan for values in held.values()]

    return {name: np.array([row(run) for run in repeats]) for name, repeats in arms.items()}


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """Return the mean of (R, N) and half its interval: SE^2 = var_i(mean_r) / N + var_r(mean_i) / R."""
    repeats, patients = values.shape
    if not patients:
        return math.nan, math.nan
    mean = float(np.mean(values))
    if patients < _LEAST_PATIENTS:
        return mean, math.nan
    parts = [(float(np.var(values.mean(axis=0), ddof=1)) / patients, patients - 1)]
    if repeats > 1:
        parts.append((float(np.var(values.mean(axis=1), ddof=1)) / repeats, repeats - 1))
    squared_error = sum(part for part, _ in parts)
    if squared_error < 1.0e-24:  # rounding of values that do not vary
        return mean, math.nan
    freedom = squared_error**2 / sum(part**2 / own for part, own in parts)
    return mean, float(stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(squared_error)


def _mean_dice(mask: np.ndarray, label: np.ndarray, classes: int) -> float:
    """Return the mean Dice over the classes that the label has, the background left out; NaN if it has none."""
    if mask.shape != label.shape:
        raise ValueError(f"a label map of {mask.shape} voxels was predicted for a label of {label.shape}")
    dice = []
    for number in range(1, classes):
        truth, found = label == number, mask == number
        if truth.any():
            dice.append(2.0 * np.count_nonzero(truth & found) / (np.count_nonzero(truth) + np.count_nonzero(found)))
    return float(np.mean(dice)) if dice else math.nan


def _voxels(path: str) -> np.ndarray:
    """Read an image of one channel: axes x, y and perhaps z."""
    file, _, rest = path.partition(".npz#")
    if rest:
        array, index = rest.split("#")
        with np.load(f"{file}.npz") as stack:
            voxels = stack[array][int(index)].T
    elif path.endswith((".nii", ".nii.gz")):
        voxels = np.asanyarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
    elif os.path.splitext(path)[1].lower() in (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"):
        picture = np.asarray(Image.open(path))
        voxels = (picture if picture.ndim == 2 else picture[..., 0]).T
    else:
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(path)).T
    return voxels.reshape([side for axis, side in enumerate(voxels.shape) if axis < 2 or side > 1])


def _one_hot(label: Any, classes: int) -> np.ndarray:
    return np.array(label, dtype=float) if isinstance(label, list) else np.eye(classes)[int(label)]


def _brier_of(row: Mapping[str, str], names: Sequence[str]) -> float:
    held = [row["label"]] if row["label"] in names else row["label"].split("+")
    return float(np.mean([(float(row[name]) - (name in held)) ** 2 for name in names]))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _first(image: Any) -> str:
    return str(image[0] if isinstance(image, list) else image)


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check_study", description=__doc__.partition("\n")[0])
    parser.add_argument("study", type=Path, help="folder of a finished study")
    parser.add_argument("--masks", type=Path, help="label maps by run folder, for a study that did not keep them")
    options = parser.parse_args(arguments)
    check = check_study(options.study, options.masks)
    sys.stdout.writelines(f"{line}\n" for line in _said(check))
    return 0 if check.largest <= TOLERANCE else 1


def _said(check: Check) -> Iterator[str]:
    for name, means in check.repeats.items():
        yield f"{name}: {', '.join(f'{mean:.6f}' for mean in means)} in its repeats"
    for kind, far in check.deviations.items():
        yield f"{kind}: off by at most {far:.2g}"
    yield from (f"not checked: {line}" for line in check.left_out)
    within = "within" if check.largest <= TOLERANCE else "ABOVE"
    yield f"largest deviation: {check.largest:.2g}, {within} {TOLERANCE:g}"


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
