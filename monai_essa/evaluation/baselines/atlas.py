# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The atlas floor: training labels vote on each voxel of a new image, which is not looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from monai.metrics import compute_dice
from monai.networks import one_hot
from monai.transforms import ResizeWithPadOrCrop
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

__all__ = ["AtlasVote", "majority_vote"]

_Placing = Callable[[Tensor, Sequence[int]], Tensor]
_MOST_TRIED = 12  # labels that are left out in turn
_MOST_VOTING = 40  # labels that predict them
_LEAST_SHARE = 1.0e-6  # of a class that no label votes for; its logarithm must be finite


def majority_vote(labels: Iterable[Tensor], shape: Sequence[int], num_classes: int) -> Tensor:
    """Let label maps vote voxel by voxel, with their centres aligned; ties go to the lowest class.

    Args:
        labels: label maps, (1, spatial...) each.
        shape: spatial shape of the result; voxels outside a map count as background.
        num_classes: number of classes, including the background.

    Returns:
        The most frequent class, (1, spatial...).

    Raises:
        ValueError: if there is no label map.

    Example:
        >>> first, second = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 1]])
        >>> majority_vote([first, second, second], (3,), num_classes=3)
        tensor([[0, 1, 1]])
    """
    return _shares([_centred(label, shape) for label in labels], num_classes).argmax(dim=0, keepdim=True)


class AtlasVote(nn.Module):
    """A network's stand-in that predicts what the training labels have at a place, whatever the image shows.

    It says how far position alone leads: a network that is not better has learnt nothing else. The labels are laid on
    an image centre on centre, or stretched to its box: by whichever the training labels, each left out in turn, are
    predicted better by the others.

    Args:
        dataset: the training items on the grid of the images to come, each with a ``label`` (1, spatial...).
        num_classes: of the labels, with the background.

    Attributes:
        stretched: whether labels are stretched to the box of an image.

    Raises:
        ValueError: if the dataset is empty.

    Example:
        >>> labels = [{"label": torch.tensor([[0, 1]])}, {"label": torch.tensor([[1, 1]])}]
        >>> AtlasVote(labels, num_classes=2)(torch.zeros(1, 1, 2)).argmax(dim=1)
        tensor([[0, 1]])
    """

    def __init__(self, dataset: Sequence[Mapping[str, Any]], num_classes: int) -> None:
        super().__init__()
        items = (dataset[number] for number in range(len(dataset)))
        self.labels = [torch.as_tensor(item[Keys.LABEL]).as_subclass(Tensor).to(torch.int16) for item in items]
        self.num_classes = num_classes
        if not self.labels:
            raise ValueError("expected training labels that vote, got none")
        self.stretched = self._left_out_dice(_stretched) > self._left_out_dice(_centred)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logarithm of the share of votes, (B, num_classes, spatial...), for images (B, C, spatial...)."""
        place = _stretched if self.stretched else _centred
        shares = _shares((place(label, images.shape[2:]) for label in self.labels), self.num_classes)
        logits = shares.clamp(min=_LEAST_SHARE).log().to(images.device)
        return logits.expand(len(images), *logits.shape).clone()

    def _left_out_dice(self, place: _Placing) -> float:
        """Return the mean Dice of labels that the others predict; 0 if there is nothing to compare."""
        found, voting = [], self.labels[:_MOST_VOTING]
        for number, label in enumerate(voting[:_MOST_TRIED] if len(voting) > 1 else []):
            others = (place(other, label.shape[1:]) for other in voting[:number] + voting[number + 1 :])
            vote = _shares(others, self.num_classes).argmax(dim=0, keepdim=True)
            predicted, truth = (one_hot(each[None].long(), self.num_classes) for each in (vote, label))
            found.append(compute_dice(predicted, truth, include_background=False))
        dice = torch.cat(found) if found else torch.zeros(1)
        return float(torch.nan_to_num(dice.nanmean()))


def _centred(label: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.as_tensor(ResizeWithPadOrCrop(tuple(shape))(label)).as_subclass(Tensor)


def _stretched(label: Tensor, shape: Sequence[int]) -> Tensor:
    return nn.functional.interpolate(label[None].float(), size=tuple(shape), mode="nearest-exact")[0]


def _shares(placed: Iterable[Tensor], num_classes: int) -> Tensor:
    """Return the share of the label maps (1, spatial...) that vote for each class, (num_classes, spatial...)."""
    votes, number = torch.zeros(0), 0
    for label in placed:
        if not number:
            votes = torch.zeros((num_classes, *label.shape[1:]))
        votes.scatter_add_(0, label.long(), torch.ones(label.shape))
        number += 1
    if not number:
        raise ValueError("expected label maps that vote, got none")
    return votes / number
