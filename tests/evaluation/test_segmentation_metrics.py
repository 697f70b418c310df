# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Dice of the cases that have a class, and no number where none has."""

from __future__ import annotations

import math

import pytest
import torch
from monai.metrics import DiceMetric

from monai_essa.evaluation import DefinedDice


def onehot(*labels: list[int]) -> torch.Tensor:
    """Return (B, 3, 1, N) of labels that name the class of N voxels."""
    classes = torch.tensor(labels).unsqueeze(1)  # (B, 1, N)
    return torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).float()


LABELS = onehot([0, 1, 1, 2], [0, 0, 1, 1], [0, 0, 0, 0])
PREDICTED = onehot([0, 1, 2, 2], [0, 1, 1, 2], [0, 1, 0, 0])


@pytest.mark.parametrize("reduction", ["mean", "mean_batch"])
def test_where_all_classes_occur_it_is_monai_s(reduction: str) -> None:
    ours, theirs = (kind(include_background=False, reduction=reduction) for kind in (DefinedDice, DiceMetric))
    for dice in (ours, theirs):
        dice(PREDICTED, LABELS)
    torch.testing.assert_close(ours.aggregate(), theirs.aggregate().view_as(ours.aggregate()))


def test_a_class_that_no_case_has_is_undefined() -> None:
    dice = DefinedDice(include_background=False, reduction="mean_batch")
    dice(PREDICTED[1:], LABELS[1:])
    first, second = dice.aggregate().tolist()
    assert first == pytest.approx(0.5) and math.isnan(second)


def test_cases_without_foreground_have_no_mean() -> None:
    dice = DefinedDice(include_background=False)
    dice(PREDICTED[2:], LABELS[2:])
    assert math.isnan(dice.aggregate().item())


def test_other_reductions_are_refused() -> None:
    dice = DefinedDice(reduction="sum")
    dice(PREDICTED, LABELS)
    with pytest.raises(ValueError, match="expected 'mean' or 'mean_batch', got 'sum'"):
        dice.aggregate()
