# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The floor of the demo: what the few labels say of a new volume when its image is not looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.metrics import compute_dice
from monai.networks import one_hot
from monai.transforms import Compose, LoadImage, Orientation, ResizeWithPadOrCrop, Spacing, VoteEnsemble

from monai_essa.data import VolumeReader, load_datalist
from monai_essa.demo.demo_data import DemoData

__all__ = ["majority_vote", "majority_vote_dice"]


def majority_vote(labels: Sequence[torch.Tensor], shape: Sequence[int], num_classes: int) -> torch.Tensor:
    """Let label maps vote voxel by voxel, laid centre on centre; a tie goes to the lowest class.

    Args:
        labels: label maps, (1, spatial...) each.
        shape: spatial shape of the result; what a map lacks counts as background.
        num_classes: classes, the background included.

    Returns:
        The most frequent class, (1, spatial...).

    Example:
        >>> first, second = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 1]])
        >>> majority_vote([first, second, second], (3,), num_classes=3)
        tensor([[0, 1, 1]])
    """
    fit = ResizeWithPadOrCrop(shape)
    return torch.as_tensor(VoteEnsemble(num_classes)([torch.as_tensor(fit(label)) for label in labels]))


def majority_vote_dice(data: DemoData) -> dict[str, list[float]]:
    """Measure the vote of the training labels on the test volumes, in the voxels that the networks see.

    Args:
        data: of the demo.

    Returns:
        Dice of each test case by class; the background is left out.
    """
    load = Compose(
        [
            LoadImage(reader=VolumeReader(), ensure_channel_first=True),
            Orientation("RAS", labels=None),
            Spacing(data.card.spacing, mode="nearest"),
        ]
    )
    names = list(data.card.labels)
    training, test = (
        [load(item["label"]).as_tensor() for item in load_datalist(data.datalist, data.sections[section])]
        for section in ("training", "test")
    )
    dice = [
        compute_dice(
            one_hot(majority_vote(training, label.shape[1:], len(names))[None], len(names)),
            one_hot(label[None], len(names)),
            include_background=False,
        )[0]
        for label in test
    ]
    return {name: [float(case[number]) for case in dice] for number, name in enumerate(names[1:])}
