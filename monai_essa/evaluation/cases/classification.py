# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Compute the metrics of a classification with intervals, and report them with the prediction for each image."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import ImageMetaKey
from monai.utils.enums import CommonKeys as Keys

from monai_essa.data.pairing.names import patients_of
from monai_essa.distributed.processes import gathered_cases, process_rank
from monai_essa.evaluation.bootstrap import Interval, bootstrap_interval
from monai_essa.evaluation.metrics import (
    area_under_roc,
    balanced_accuracy,
    brier_score,
    expected_calibration_error,
    macro_f1,
    quadratic_weighted_kappa,
    reliability_bins,
)
from monai_essa.files import write_text_whole

__all__ = ["ClassificationReport", "classification_intervals"]

_KAPPA = "quadratic_weighted_kappa"  # from -1 to 1; all the others are from 0 to 1


def classification_intervals(
    probabilities: np.ndarray,
    truth: np.ndarray,
    multi_label: bool = False,
    patients: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Compute the metrics of a classification with their 95 % bootstrap intervals over patients.

    ``auc``, ``balanced_accuracy``, ``f1`` (of the second of two classes, otherwise the mean over classes), ``brier``,
    ``expected_calibration_error`` and, if an image has one class, ``quadratic_weighted_kappa``. The class of the
    highest probability is predicted; with several classes for an image, those above 0.5.

    Args:
        probabilities: (N, C).
        truth: (N, C) of 0 and 1.
        multi_label: whether an image may be of several classes or none.
        patients: of each image, for the draws; default: each image is a patient of its own.
        resamples: number of draws of the bootstrap; 0 for no intervals.
        seed: of these draws.

    Returns:
        The interval of each metric by its name.

    Example:
        >>> truth = np.eye(2, dtype=int)[np.arange(100) % 2]
        >>> probabilities = 0.75 * np.random.default_rng(0).dirichlet([1, 1], 100) + 0.25 * truth
        >>> str(classification_intervals(probabilities, truth, resamples=100)["balanced_accuracy"])
        '0.640 (0.546 to 0.722)'
    """
    metrics: dict[str, Callable[..., float]] = {"auc": area_under_roc, "brier": brier_score} | (
        _of_several_classes() if multi_label else _of_one_class(truth.shape[1])
    )
    draw = partial(bootstrap_interval, groups=patients, resamples=resamples, seed=seed)
    return {
        name: draw(metric, probabilities, truth, bounds=(-1.0 if name == _KAPPA else 0.0, 1.0))
        for name, metric in metrics.items()
    }


class ClassificationReport:
    """Handler that writes ``predictions.csv`` and ``metrics.json`` when an evaluator completes.

    The images are those of all processes.

    - ``predictions.csv``: image, label (several names are joined by ``+``) and a probability for each class;
    - ``metrics.json``: each metric of :func:`~monai_essa.evaluation.classification_intervals`, and the bins of
      :func:`~monai_essa.evaluation.reliability_bins` under ``reliability``. Patients are those of
      ``patients``, or guessed from the names of files (:func:`monai_essa.data.patient_of`).

    It takes the evaluator's decollated output after postprocessing: ``image``, ``pred`` (C,) as probabilities and
    ``label`` (C,) of 0 and 1.

    Args:
        output_dir: folder for the two files; made if missing.
        labels: the number of each class by its name.
        multi_label: whether an image may be of several classes or none.
        resamples: number of draws of the bootstrap; 0 for no intervals, which take most of the time of an evaluation.
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
        """Write the files, in the first process."""
        self._rows = gathered_cases(self._rows)
        if process_rank() > 0:
            return
        images = [image for image, _, _ in self._rows]
        probabilities, truth = (np.stack([row[place] for row in self._rows]) for place in (1, 2))
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_text_whole(self.output_dir / "predictions.csv", self._table(images, probabilities, truth))
        patients = patients_of(images, self.patients)
        intervals = classification_intervals(
            probabilities, truth, self.multi_label, patients, resamples=self.resamples, seed=self.seed
        )
        record = {
            "images": len(images),
            "patients": len(set(patients)),
            "interval": f"95 % studentised bootstrap over patients, {self.resamples} draws, seed {self.seed}",
            "metrics": {name: interval.plain() for name, interval in intervals.items()},
            "reliability": [
                {name: round(value, 6) for name, value in each.items()}
                for each in reliability_bins(*_decisions(probabilities, truth, self.multi_label))
            ],
        }
        write_text_whole(self.output_dir / "metrics.json", json.dumps(record, indent=2) + "\n")

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


def _of_one_class(num_classes: int) -> dict[str, Callable[..., float]]:
    def predicted(probabilities: np.ndarray) -> np.ndarray:
        chosen: np.ndarray = np.eye(num_classes, dtype=int)[probabilities.argmax(1)]
        return chosen

    scored = slice(1, None) if num_classes == 2 else slice(None)
    return {
        "balanced_accuracy": lambda p, t: balanced_accuracy(predicted(p), t),
        "f1": lambda p, t: macro_f1(predicted(p)[:, scored], t[:, scored]),
        _KAPPA: lambda p, t: quadratic_weighted_kappa(p.argmax(1), t.argmax(1), num_classes),
        "expected_calibration_error": lambda p, t: expected_calibration_error(*_decisions(p, t, False)),
    }


def _of_several_classes() -> dict[str, Callable[..., float]]:
    def both_ways(decisions: np.ndarray) -> np.ndarray:
        return np.concatenate([decisions, 1 - decisions], axis=1)

    return {
        "balanced_accuracy": lambda p, t: balanced_accuracy(both_ways((p > 0.5).astype(int)), both_ways(t)),
        "f1": lambda p, t: macro_f1((p > 0.5).astype(int), t),
        "expected_calibration_error": lambda p, t: expected_calibration_error(*_decisions(p, t, True)),
    }


def _decisions(probabilities: np.ndarray, truth: np.ndarray, multi_label: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of each decision, and whether it is right."""
    if multi_label:
        return np.maximum(probabilities, 1 - probabilities), (probabilities > 0.5) == truth
    return probabilities.max(1), probabilities.argmax(1) == truth.argmax(1)
