# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""The metrics of a classification, each with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from monai_essa.evaluation.bootstrap import Interval, bootstrap_interval
from monai_essa.evaluation.classification_metrics import (
    area_under_roc,
    balanced_accuracy,
    expected_calibration_error,
    macro_f1,
    quadratic_weighted_kappa,
)

__all__ = ["classification_intervals"]

_KAPPA = "quadratic_weighted_kappa"  # from -1 to 1, where all the others are from 0 to 1


def classification_intervals(
    probabilities: np.ndarray,
    truth: np.ndarray,
    multi_label: bool = False,
    patients: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Compute the metrics of a classification with their 95 % bootstrap intervals over patients.

    ``auc``, ``balanced_accuracy``, ``f1`` (of the second class where there are two, else the mean over classes),
    ``expected_calibration_error`` and, where an image has one class, ``quadratic_weighted_kappa``. The class of the
    highest probability is predicted; of several classes, those above 0.5.

    Args:
        probabilities: (N, C).
        truth: (N, C) of 0 and 1.
        multi_label: whether an image may be of several classes or none.
        patients: of each image, for the draws; None where each image is a patient of its own.
        resamples: draws of the bootstrap.
        seed: of these draws.

    Returns:
        The interval of each metric by its name.

    Example:
        >>> truth = np.eye(2, dtype=int)[np.arange(100) % 2]
        >>> probabilities = 0.75 * np.random.default_rng(0).dirichlet([1, 1], 100) + 0.25 * truth
        >>> str(classification_intervals(probabilities, truth, resamples=100)["balanced_accuracy"])
        '0.640 (0.546 to 0.722)'
    """
    metrics: dict[str, Callable[..., float]] = {"auc": area_under_roc} | (
        _of_several_classes() if multi_label else _of_one_class(truth.shape[1])
    )
    draw = partial(bootstrap_interval, groups=patients, resamples=resamples, seed=seed)
    return {
        name: draw(metric, probabilities, truth, bounds=(-1.0 if name == _KAPPA else 0.0, 1.0))
        for name, metric in metrics.items()
    }


def _of_one_class(num_classes: int) -> dict[str, Callable[..., float]]:
    def predicted(probabilities: np.ndarray) -> np.ndarray:
        chosen: np.ndarray = np.eye(num_classes, dtype=int)[probabilities.argmax(1)]
        return chosen

    scored = slice(1, None) if num_classes == 2 else slice(None)
    return {
        "balanced_accuracy": lambda p, t: balanced_accuracy(predicted(p), t),
        "f1": lambda p, t: macro_f1(predicted(p)[:, scored], t[:, scored]),
        _KAPPA: lambda p, t: quadratic_weighted_kappa(p.argmax(1), t.argmax(1), num_classes),
        "expected_calibration_error": lambda p, t: expected_calibration_error(p.max(1), p.argmax(1) == t.argmax(1)),
    }


def _of_several_classes() -> dict[str, Callable[..., float]]:
    def both_ways(decisions: np.ndarray) -> np.ndarray:
        return np.concatenate([decisions, 1 - decisions], axis=1)

    return {
        "balanced_accuracy": lambda p, t: balanced_accuracy(both_ways((p > 0.5).astype(int)), both_ways(t)),
        "f1": lambda p, t: macro_f1((p > 0.5).astype(int), t),
        "expected_calibration_error": lambda p, t: expected_calibration_error(np.maximum(p, 1 - p), (p > 0.5) == t),
    }
