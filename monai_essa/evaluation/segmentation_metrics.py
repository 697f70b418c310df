# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics of a segmentation that stay undefined where they are undefined."""

from __future__ import annotations

import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import DiceMetric
from monai.utils import MetricReduction

__all__ = ["DefinedDice", "dice_handler"]


class DefinedDice(DiceMetric):
    """MONAI's Dice, averaged over what is defined: NaN, and not 0, where no case has the class.

    A case whose label lacks a class has no Dice for it. MONAI leaves such values out of its means too, but gives 0 for
    a mean of nothing, which then counts as the worst score, or as the first best one of a run.

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
        """Return the mean of the defined values, NaN where there is none.

        Raises:
            ValueError: if the reduction is another than ``mean`` and ``mean_batch``.
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
