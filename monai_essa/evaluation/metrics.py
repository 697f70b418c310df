# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Compute metrics of classification, and a Dice that is undefined if a class is absent."""

from __future__ import annotations

import numpy as np
import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import DiceMetric, compute_confusion_matrix_metric, compute_roc_auc, get_confusion_matrix
from monai.utils import MetricReduction

__all__ = [
    "DefinedDice",
    "area_under_roc",
    "balanced_accuracy",
    "brier_score",
    "dice_handler",
    "expected_calibration_error",
    "macro_f1",
    "quadratic_weighted_kappa",
    "reliability_bins",
]


def area_under_roc(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Compute the area under the ROC curve, each class against the others, and average the classes.

    Args:
        probabilities: (N, C).
        truth: (N, C) of 0 and 1.

    Returns:
        The mean AUC; NaN if no image or every image is of a class.

    Example:
        >>> area_under_roc(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[1, 0], [0, 1]]))
        1.0
    """
    positives = truth.sum(0)
    if ((positives == 0) | (positives == len(truth))).any():
        return float("nan")
    scores = compute_roc_auc(torch.as_tensor(probabilities), torch.as_tensor(truth), average="none")
    return float(np.mean(np.asarray(scores, dtype=float)))


def balanced_accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Average the recall of the classes: the accuracy if all classes were equally frequent.

    Args:
        predicted: (N, C) of 0 and 1.
        truth: (N, C) of 0 and 1.

    Returns:
        The mean recall; NaN if a class has no image.

    Example:
        >>> balanced_accuracy(np.eye(2)[[0, 0, 0, 1]], np.eye(2)[[0, 0, 1, 1]])
        0.75
    """
    return _mean_over_classes("sensitivity", predicted, truth)


def brier_score(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Average the squared error of the probabilities over images and classes.

    Args:
        probabilities: (N, C).
        truth: (N, C) of 0 and 1.

    Returns:
        From 0, which is best, to 1; for two classes the squared error of the second one's probability.

    Example:
        >>> brier_score(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([[1, 0], [0, 1]]))
        0.125
    """
    return float(np.mean((probabilities - truth) ** 2))


def macro_f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Average the F1 score of the classes; of a single column, the F1 score of that class.

    Args:
        predicted: (N, C) of 0 and 1.
        truth: (N, C) of 0 and 1.

    Returns:
        The mean of 2 TP / (2 TP + FP + FN); NaN if a class neither occurs nor is predicted.

    Example:
        >>> macro_f1(np.array([[1], [1], [0]]), np.array([[1], [0], [0]]))
        0.6666666865348816
    """
    return _mean_over_classes("f1 score", predicted, truth)


def quadratic_weighted_kappa(predicted: np.ndarray, truth: np.ndarray, num_classes: int) -> float:
    r"""Compute Cohen's kappa for ordered classes: a disagreement counts by the square of its distance.

    :math:`\kappa = 1 - \sum_{ij} (i-j)^2 O_{ij} / \sum_{ij} (i-j)^2 E_{ij}` with the observed counts O and the counts
    E of independent raters with the same margins (Cohen 1968, doi:10.1037/h0026256). For two classes this is the
    unweighted kappa.

    Args:
        predicted: (N,), classes 0 to ``num_classes - 1``.
        truth: (N,), likewise.
        num_classes: C.

    Returns:
        1 for agreement, 0 for chance; NaN if both hold the same single class throughout.

    Example:
        >>> quadratic_weighted_kappa(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 1]), 3)
        0.8
    """
    observed = np.zeros((num_classes, num_classes))
    np.add.at(observed, (truth, predicted), 1)
    by_chance = np.outer(observed.sum(1), observed.sum(0)) / len(truth)
    distances = np.subtract.outer(np.arange(num_classes), np.arange(num_classes)) ** 2
    expected = float((distances * by_chance).sum())
    return 1 - float((distances * observed).sum()) / expected if expected > 0 else float("nan")


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    r"""Measure how far the confidence of predictions is from their accuracy.

    :math:`\sum_m \frac{|B_m|}{N} |\mathrm{acc}(B_m) - \mathrm{conf}(B_m)|` over M bins :math:`((m-1)/M, m/M]` of the
    confidence (Guo et al. 2017, arXiv 1706.04599, equation 3, with 15 bins). MONAI has it from version 1.6 on.

    Args:
        confidence: (...), the probability of what was predicted.
        correct: (...), whether it was right.
        bins: M.

    Returns:
        0 for perfect calibration, at most 1.

    Example:
        >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 1, 1, 0])), 6)
        0.1
    """
    held = reliability_bins(confidence, correct, bins)
    return sum(each["decisions"] * abs(each["accuracy"] - each["confidence"]) for each in held) / confidence.size


def reliability_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> list[dict[str, float]]:
    """Compare confidence and accuracy in bins of the confidence, for a reliability diagram.

    Args:
        confidence: as for :func:`expected_calibration_error`.
        correct: likewise.
        bins: how many bins of equal width there are from 0 to 1.

    Returns:
        Of each bin that holds a decision, in ascending order: ``low`` (excluded) and ``high`` (included), the number of
        ``decisions``, their mean ``confidence`` and their ``accuracy``.

    Example:
        >>> reliability_bins(np.array([0.75, 1.0]), np.array([1, 0]), bins=2)
        [{'low': 0.5, 'high': 1.0, 'decisions': 2, 'confidence': 0.875, 'accuracy': 0.5}]
    """
    confidence, correct = confidence.ravel().astype(np.float64), correct.ravel().astype(np.float64)
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [
        {
            "low": float(place / bins),
            "high": float((place + 1) / bins),
            "decisions": int(within.sum()),
            "confidence": float(confidence[within].mean()),
            "accuracy": float(correct[within].mean()),
        }
        for place in np.unique(places)
        for within in [places == place]
    ]


class DefinedDice(DiceMetric):
    """Average MONAI's Dice over what is defined: NaN, not 0, if no case has the class.

    A case whose label lacks a class has no Dice for it. MONAI leaves such values out of its means too, but returns 0
    for a mean of nothing, which then counts as the worst score, or as the first best one.

    - ``reduction="mean"``: the mean over the cases of each case's mean over its classes.
    - ``reduction="mean_batch"``: the mean over the cases for each class.

    Example:
        >>> dice = DefinedDice(include_background=False)
        >>> label = torch.tensor([[[[0, 0], [0, 0]], [[1, 1], [0, 0]]]]).float().transpose(0, 1)  # (B, 1, H, W)
        >>> onehot = torch.cat([1 - label, label], dim=1)
        >>> _ = dice(onehot, onehot)
        >>> dice.aggregate(), dice(onehot[:1], onehot[:1])
        (tensor(1.), tensor([[nan]]))
    """

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor:
        """Return the mean of the defined values; NaN if there are none.

        Raises:
            ValueError: if the reduction is neither ``mean`` nor ``mean_batch``.
        """
        scores = self.get_buffer()  # (N, C), NaN where the label lacks the class
        chosen = MetricReduction(reduction or self.reduction)
        if chosen is MetricReduction.MEAN_BATCH:
            return torch.nanmean(scores, dim=0)
        if chosen is MetricReduction.MEAN:
            return torch.nanmean(torch.nanmean(scores, dim=1))
        raise ValueError(f"reduction: expected 'mean' or 'mean_batch', got {chosen.value!r}")


def dice_handler(num_classes: int, reduction: str = "mean") -> IgniteMetricHandler:
    """Make the handler that computes :class:`DefinedDice` of an evaluator's ``pred`` and ``label``, class numbers both.

    Args:
        num_classes: of the labels, the background among them, which is not scored.
        reduction: ``"mean"``, or ``"mean_batch"`` for each class.
    """
    metric = DefinedDice(include_background=False, num_classes=num_classes, reduction=reduction)
    return IgniteMetricHandler(metric_fn=metric, output_transform=from_engine(["pred", "label"]))


def _mean_over_classes(name: str, predicted: np.ndarray, truth: np.ndarray) -> float:
    counts = get_confusion_matrix(torch.as_tensor(predicted), torch.as_tensor(truth)).sum(0)  # (C, 4)
    return float(compute_confusion_matrix_metric(name, counts).mean())
