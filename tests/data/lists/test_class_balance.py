# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_essa.data import check_balanced_crops, image_loss_weights, voxel_loss_weights

LABELS = {"background": 0, "liver": 1, "tumour": 2}
# 12 voxels of background, 4 of the liver, 2 of the tumour, which the first case lacks.
CASES = [{"label": torch.tensor([[0.0] * 6 + [1.0] * 2])}, {"label": torch.tensor([[0.0] * 6 + [1.0] * 2 + [2.0] * 2])}]


class Counted:
    """A transform that counts how many items it was given."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        self.read += 1
        return item


def test_balanced_voxels_weigh_against_their_number_with_a_mean_of_1() -> None:
    weights = voxel_loss_weights("balanced", CASES, [], LABELS)
    inverse = torch.tensor([1 / 12, 1 / 4, 1 / 2])
    assert weights is not None
    torch.testing.assert_close(weights, inverse / inverse.mean())
    assert weights.mean() == pytest.approx(1)


@pytest.mark.parametrize(
    "given", [None, [1.0, 2.0, 0.5], torch.tensor([1.0, 2.0, 0.5])], ids=["none", "list", "tensor"]
)
def test_given_weights_are_taken_as_they_are_and_no_label_is_read(given: Any) -> None:
    load = Counted()
    for weights in (voxel_loss_weights(given, CASES, [load], LABELS), image_loss_weights(given, [], 3)):
        assert weights is None if given is None else weights.tolist() == [1.0, 2.0, 0.5]
    assert load.read == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0, 2.0], r"class_weights: expected null, 'balanced' or a list of 3 numbers .*, got \[1.0, 2.0\]"),
        ("equal", "class_weights: expected null, 'balanced' or a list of 3 numbers .*, got 'equal'"),
        ([1.0, -1.0, 1.0], r"class_weights\[1\]: expected a number from 0"),
        ([0, 0, 0], "class_weights: expected a weight above 0, got zeros only"),
    ],
)
def test_other_weights_are_refused_in_one_line(given: Any, message: str) -> None:
    for weigh in (lambda: voxel_loss_weights(given, CASES, [], LABELS), lambda: image_loss_weights(given, [], 3)):
        with pytest.raises(ValueError, match=message):
            weigh()


def test_a_class_that_no_training_label_holds_is_named() -> None:
    with pytest.raises(ValueError, match="class_weights 'balanced': no training label holds 'tumour'; take it out of"):
        voxel_loss_weights("balanced", CASES[:1], [], LABELS)
    with pytest.raises(ValueError, match="balanced_crops: no training label holds 'tumour'; take it out of labels"):
        check_balanced_crops(True, CASES[:1], [], LABELS)


def test_labels_are_read_until_each_class_was_seen() -> None:
    for balanced, read in ((True, 2), (False, 0)):
        load = Counted()
        check_balanced_crops(balanced, [*CASES, *CASES], [load], LABELS)
        assert load.read == read
