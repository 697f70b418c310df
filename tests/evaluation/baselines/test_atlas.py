# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The atlas floor: a vote by hand, and labels that are laid on an image as the training labels themselves ask for."""

from __future__ import annotations

import pytest
import torch

from monai_essa.evaluation.baselines.atlas import AtlasVote, majority_vote


def test_the_most_frequent_class_wins_and_a_tie_goes_to_the_lowest() -> None:
    labels = [torch.tensor([voxels]) for voxels in ([0, 1, 2, 2], [1, 1, 2, 0], [2, 0, 2, 1])]

    assert majority_vote(labels, (4,), num_classes=3).tolist() == [[0, 1, 2, 0]]


def test_maps_of_other_shapes_lie_centre_on_centre() -> None:
    small, large = torch.ones(1, 2, 2), torch.zeros(1, 6, 6)
    large[:, 2:4, 2:4] = 1

    vote = majority_vote([small, large], (4, 4), num_classes=2)

    assert vote[0, 1:3, 1:3].tolist() == [[1, 1], [1, 1]]
    assert vote.sum() == 4


def test_a_vote_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="expected label maps that vote, got none"):
        majority_vote([], (4,), num_classes=3)
    with pytest.raises(ValueError, match="expected training labels that vote, got none"):
        AtlasVote([], num_classes=2)


def box(side: int, start: int, end: int) -> dict[str, torch.Tensor]:
    label = torch.zeros(1, side, side)
    label[:, start:end, start:end] = 1
    return {"label": label}


def test_labels_that_fill_a_share_of_their_box_are_stretched() -> None:
    atlas = AtlasVote([box(8, 2, 6), box(16, 4, 12), box(12, 3, 9)], num_classes=2)
    assert atlas.stretched
    expected = box(20, 5, 15)["label"]
    assert torch.equal(atlas(torch.zeros(1, 1, 20, 20)).argmax(dim=1), expected.long())


def test_labels_of_one_size_in_boxes_of_any_size_are_centred() -> None:
    atlas = AtlasVote([box(8, 2, 6), box(16, 6, 10), box(12, 4, 8)], num_classes=2)
    assert not atlas.stretched
    assert torch.equal(atlas(torch.zeros(1, 1, 20, 20)).argmax(dim=1), box(20, 8, 12)["label"].long())


def test_a_single_label_is_laid_centre_on_centre() -> None:
    atlas = AtlasVote([box(4, 1, 3)], num_classes=3)
    assert not atlas.stretched
    assert torch.equal(atlas(torch.zeros(2, 1, 4, 4)).argmax(dim=1), box(4, 1, 3)["label"].long().expand(2, 4, 4))


def test_the_shares_are_probabilities() -> None:
    atlas = AtlasVote([box(8, 2, 6), box(8, 3, 7), box(8, 2, 5)], num_classes=2)
    shares = atlas(torch.zeros(1, 1, 8, 8)).softmax(dim=1)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(1, 8, 8))
    assert shares[0, 1, 3, 3] == pytest.approx(1.0, abs=1e-4) and shares[0, 1, 6, 6] == pytest.approx(1 / 3, abs=1e-4)
