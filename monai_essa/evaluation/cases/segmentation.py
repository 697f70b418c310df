# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Score a segmentation case by case and class by class, and report the scores with intervals over patients."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from monai.utils import ImageMetaKey
from monai.utils.enums import CommonKeys as Keys

from monai_essa.data.pairing.names import patients_of
from monai_essa.distributed.processes import gathered_cases, process_rank
from monai_essa.evaluation.bootstrap import Interval, bootstrap_interval
from monai_essa.files import write_text_whole

__all__ = ["OUTCOMES", "CaseScores", "SegmentationReport", "score_structure"]

OUTCOMES = ("found", "missed", "added", "absent")
"""What became of a structure: in the label and predicted; in the label only; predicted only; in neither."""
_SCORES = ("dice", "nsd", "hd95", "volume_difference")


@dataclass(frozen=True)
class CaseScores:
    """The scores of one structure in one case.

    Attributes:
        outcome: one of :data:`OUTCOMES`.
        dice: the overlap of prediction and label; 0 if missed, NaN if the label lacks the structure.
        nsd: the normalised surface Dice, the share of both surfaces that lies within the tolerance of the other; 0 if
            missed, NaN if the label lacks the structure.
        hd95: the 95th percentile of the distances between both surfaces, the larger of the two directions, in mm, or in
            pixels of a 2-D image; NaN unless found.
        volume: of the prediction, in ml, or in pixels of a 2-D image.
        label_volume: of the label, likewise.
    """

    outcome: str
    dice: float
    nsd: float
    hd95: float
    volume: float
    label_volume: float

    @property
    def volume_difference(self) -> float:
        """The volume of the prediction less that of the label; NaN where the label lacks the structure."""
        return self.volume - self.label_volume if self.label_volume else math.nan


def score_structure(
    predicted: torch.Tensor, truth: torch.Tensor, spacing: Sequence[float], tolerance: float = 2.0
) -> CaseScores:
    """Score one structure with MONAI's metrics.

    Args:
        predicted: (x, y) or (x, y, z) of booleans.
        truth: likewise.
        spacing: mm of a voxel along each axis; of two axes, pixels.
        tolerance: of the surface Dice, in the unit of ``spacing``.

    Returns:
        The scores.

    Example:
        >>> square = torch.zeros(8, 8, dtype=torch.bool)
        >>> square[2:6, 2:6] = True
        >>> score_structure(square.roll(1, 0), square, [1.0, 1.0], tolerance=0.5).dice
        0.75
    """
    unit = math.prod(spacing) / (1000 if len(spacing) == 3 else 1)  # mm^3 to ml
    volumes = [float(mask.sum()) * unit for mask in (predicted, truth)]
    if not truth.any():
        return CaseScores("added" if predicted.any() else "absent", math.nan, math.nan, math.nan, *volumes)
    if not predicted.any():
        return CaseScores("missed", 0.0, 0.0, math.nan, *volumes)
    places = (predicted | truth).nonzero()  # beyond their box, with one voxel around it, there is no surface
    low, high = (end.tolist() for end in places.aminmax(dim=0))
    box = tuple(slice(max(0, first - 1), last + 2) for first, last in zip(low, high, strict=True))
    found, wanted = (mask[box][None, None].float() for mask in (predicted, truth))  # (B, C, spatial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of an argument that MONAI gives itself
        nsd = compute_surface_dice(found, wanted, [tolerance], include_background=True, spacing=list(spacing))
        hd95 = compute_hausdorff_distance(found, wanted, include_background=True, percentile=95, spacing=list(spacing))
    dice = compute_dice(found, wanted, include_background=True)
    return CaseScores("found", dice.item(), nsd.item(), hd95.item(), *volumes)


class SegmentationReport:
    """Handler that writes ``cases.csv`` and ``metrics.json`` when an evaluator completes, of all processes' cases.

    - ``cases.csv``: a row for each case and structure with the entries of :class:`CaseScores`;
    - ``metrics.json``: for each structure, how many cases were found, missed, added and absent, and the mean of each
      score over the cases in which it is defined, with its 95 % bootstrap interval over patients; and the same of the
      mean over the structures of a case. A structure that was missed has no distance, so read ``hd95`` with that count.

    It takes the evaluator's decollated output after postprocessing: ``pred`` and ``label`` (1, spatial) of class
    numbers, on the voxels of the file.

    Args:
        output_dir: folder for the two files; made if missing.
        labels: the number of each class by its name; 0 is background, which is not scored.
        tolerance: of the normalised surface Dice, in mm, or in pixels of 2-D images.
        patients: of the cases, by the path of the image, as :func:`monai_essa.data.listed_patients` returns them;
            others are guessed from the names of files (:func:`monai_essa.data.patient_of`).
        resamples: number of draws of the bootstrap; 0 for no intervals.

    Raises:
        ValueError: if the tolerance is not a finite number from 0 on.
    """

    def __init__(
        self,
        output_dir: str | Path,
        labels: Mapping[str, int],
        tolerance: float = 2.0,
        patients: Mapping[str, str] = MappingProxyType({}),
        resamples: int = 1000,
    ) -> None:
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"tolerance: expected mm, or pixels of 2-D images, from 0 on, got {tolerance}")
        self.output_dir = Path(output_dir)
        self.names = [name for name in sorted(labels, key=labels.__getitem__) if labels[name] != 0]
        self.numbers = [labels[name] for name in self.names]
        self.tolerance = tolerance
        self.patients = dict(patients)
        self.resamples = resamples
        self._cases: dict[str, list[CaseScores]] = {}
        self._dims = 3

    def attach(self, engine: Engine) -> None:
        """Score at each iteration, write at the end."""
        engine.add_event_handler(Events.STARTED, lambda _: self._cases.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the files, in the first process."""
        self._cases = dict(gathered_cases(list(self._cases.items())))
        if process_rank() > 0:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_text_whole(self.output_dir / "cases.csv", self._table())
        write_text_whole(self.output_dir / "metrics.json", json.dumps(self._record(), indent=2) + "\n")

    def _collect(self, engine: Engine) -> None:
        for item in engine.state.output:  # type: ignore[union-attr]
            pred, label = (torch.as_tensor(item[key])[0].cpu() for key in (Keys.PRED, Keys.LABEL))
            self._dims = label.ndim
            spacing = [1.0] * label.ndim
            if label.ndim == 3 and isinstance(item[Keys.LABEL], MetaTensor):
                spacing = item[Keys.LABEL].pixdim.tolist()
            pred, label = (ids.as_subclass(torch.Tensor) for ids in (pred, label))
            image = str(item[Keys.IMAGE].meta[ImageMetaKey.FILENAME_OR_OBJ])
            self._cases[image] = [
                score_structure(pred == number, label == number, spacing, self.tolerance) for number in self.numbers
            ]

    def _table(self) -> str:
        length, volume = self._units
        named = {"hd95": f"hd95_{length}", "volume": f"volume_{volume}", "label_volume": f"label_volume_{volume}"}
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["image", "class", *(named.get(each.name, each.name) for each in fields(CaseScores))])
        for image, structures in self._cases.items():
            for name, scores in zip(self.names, structures, strict=True):
                outcome, *numbers = astuple(scores)
                table.writerow([image, name, outcome, *("" if math.isnan(x) else f"{x:.6f}" for x in numbers)])
        return text.getvalue()

    @property
    def _units(self) -> tuple[str, str]:
        return ("mm", "ml") if self._dims == 3 else ("pixels", "pixels")

    def _record(self) -> dict[str, Any]:
        patients = patients_of(list(self._cases), self.patients)
        scores = {name: self._scores(name) for name in _SCORES}  # (cases, structures)
        structures = {
            name: {
                "cases": {kind: counted[kind] for kind in OUTCOMES},
                **{score: self._interval(values[:, place], patients) for score, values in scores.items()},
            }
            for place, name in enumerate(self.names)
            for counted in [Counter(case[place].outcome for case in self._cases.values())]
        }
        return {
            "cases": len(self._cases),
            "patients": len(set(patients)),
            "interval": f"95 % studentised bootstrap over patients, {self.resamples} draws, seed 0",
            "units": dict(zip(("hd95", "volume"), self._units, strict=True)),
            "tolerance": self.tolerance,
            "metrics": {name: self._interval(_mean_of_defined(scores[name]), patients) for name in _SCORES[:3]},
            "classes": structures,
        }

    def _scores(self, name: str) -> np.ndarray:
        return np.array([[getattr(scores, name) for scores in case] for case in self._cases.values()])

    def _interval(self, values: np.ndarray, patients: Sequence[str]) -> dict[str, Any]:
        """Summarise the defined values of a score; its bounds are left open where it has none."""
        there = ~np.isnan(values)
        if not there.any():
            return {"cases": 0} | Interval(math.nan, math.nan, math.nan, reason="no case has a value").plain()
        groups = [patient for patient, defined in zip(patients, there, strict=True) if defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # few patients: the table says how many
            interval = bootstrap_interval(_mean, values[there], groups=groups, resamples=self.resamples)
        return {"cases": int(there.sum())} | interval.plain()


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def _mean_of_defined(scores: np.ndarray) -> np.ndarray:
    """Average the defined scores of each case; NaN for a case without any."""
    counts = (~np.isnan(scores)).sum(1)
    means: np.ndarray = np.where(counts > 0, np.nansum(scores, 1) / np.maximum(counts, 1), np.nan)
    return means
