# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""What a classifier does on a test section: the probabilities of each image, and metrics with their intervals."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import ImageMetaKey
from monai.utils.enums import CommonKeys as Keys

from monai_essa.data.case_names import patient_of
from monai_essa.evaluation.bootstrap import Interval
from monai_essa.evaluation.classification_intervals import classification_intervals

__all__ = ["ClassificationReport"]

_PICTURE = re.compile(r"\.(png|jpe?g|tiff?|bmp)$", re.IGNORECASE)


class ClassificationReport:
    """Handler that writes ``predictions.csv`` and ``metrics.json`` when an evaluator completes.

    - ``predictions.csv``: image, label (several names are joined by ``+``) and a probability for each class;
    - ``metrics.json``: each metric of :func:`~monai_essa.evaluation.classification_intervals`. Patients are those of
      ``patients``, else told apart by the names of files (:func:`monai_essa.data.patient_of`).

    It takes the evaluator's decollated output after postprocessing: ``image``, ``pred`` (C,) as probabilities and
    ``label`` (C,) of 0 and 1.

    Args:
        output_dir: folder of the two files; made if missing.
        labels: the number of each class by its name.
        multi_label: whether an image may be of several classes or none.
        resamples: draws of the bootstrap.
        seed: of these draws.
        patients: of the images, by path, as :func:`monai_essa.data.listed_patients` returns them.
    """

    def __init__(
        self,
        output_dir: str | Path,
        labels: Mapping[str, int],
        multi_label: bool = False,
        resamples: int = 1000,
        seed: int = 0,
        patients: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.output_dir = Path(output_dir)
        self.names = sorted(labels, key=labels.__getitem__)
        self.multi_label = multi_label
        self.resamples = resamples
        self.seed = seed
        self.patients = dict(patients)
        self._rows: list[tuple[str, np.ndarray, np.ndarray]] = []

    def attach(self, engine: Engine) -> None:
        """Collect at each iteration, write at the end."""
        engine.add_event_handler(Events.STARTED, lambda _: self._rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the files."""
        images = [image for image, _, _ in self._rows]
        probabilities, truth = (np.stack([row[place] for row in self._rows]) for place in (1, 2))
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / "predictions.csv").write_text(self._table(images, probabilities, truth), encoding="utf-8")
        patients = [
            self.patients.get(image, guess) for image, guess in zip(images, _guessed_patients(images), strict=True)
        ]
        intervals = classification_intervals(
            probabilities, truth, self.multi_label, patients, resamples=self.resamples, seed=self.seed
        )
        record = {
            "images": len(images),
            "patients": len(set(patients)),
            "interval": f"95 % studentised bootstrap over patients, {self.resamples} draws, seed {self.seed}",
            "metrics": {name: _plain(interval) for name, interval in intervals.items()},
        }
        (self.output_dir / "metrics.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _collect(self, engine: Engine) -> None:
        for item in engine.state.output:  # type: ignore[union-attr]
            image = str(item[Keys.IMAGE].meta[ImageMetaKey.FILENAME_OR_OBJ])
            pred, label = (item[key].detach().float().cpu().numpy() for key in (Keys.PRED, Keys.LABEL))
            self._rows.append((image, pred, label.astype(int)))

    def _table(self, images: list[str], probabilities: np.ndarray, truth: np.ndarray) -> str:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["image", "label", *self.names])
        for image, row, classes in zip(images, probabilities, truth, strict=True):
            label = "+".join(name for name, there in zip(self.names, classes, strict=True) if there)
            table.writerow([image, label, *(f"{value:.6f}" for value in row)])
        return text.getvalue()


def _guessed_patients(images: list[str]) -> list[str]:
    folder = os.path.commonpath([os.path.dirname(image) for image in images])
    return [patient_of(_PICTURE.sub("", os.path.relpath(image, folder))) for image in images]


def _plain(interval: Interval) -> dict[str, Any]:
    """Return the fields of an interval; JSON has no NaN."""
    ends = {name: getattr(interval, name) for name in ("value", "low", "high")}
    plain = {name: None if math.isnan(value) else round(value, 6) for name, value in ends.items()}
    return (
        plain | {"undefined_draws": interval.undefined} | ({"no_interval": interval.reason} if interval.reason else {})
    )
