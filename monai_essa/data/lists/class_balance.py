# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Weights of the classes in a loss: none, numbers, or worked out against the share of each class in the training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from monai_essa.data.lists.class_labels import class_weights
from monai_essa.outside import ListOf, Number, shown, switch

if TYPE_CHECKING:
    import torch

__all__ = ["check_balanced_crops", "image_loss_weights", "voxel_loss_weights"]

_BALANCED = "balanced"
_WEIGHT = Number(0, 1e6)


def image_loss_weights(given: Any, items: Sequence[Mapping[str, Any]], num_classes: int) -> torch.Tensor | None:
    """Return the weights that the loss of a classification gives to the classes.

    Args:
        given: None: all the same; a list, or a tensor, in the order of the class numbers; or ``"balanced"``: those of
            :func:`~monai_essa.data.class_weights`.
        items: of the training, as :func:`~monai_essa.data.classification_items` returns them.
        num_classes: how many classes there are.

    Returns:
        The weights (C,), or None.

    Raises:
        ValueError: if ``given`` is something else or of another length, or a class that is to be balanced has no image.

    Example:
        >>> image_loss_weights("balanced", [{"label": 0}, {"label": 0}, {"label": 0}, {"label": 1}], 2)
        tensor([0.6667, 2.0000])
    """
    if isinstance(given, str) and given == _BALANCED:
        return class_weights(items, num_classes)
    return _given_weights(given, num_classes)


def voxel_loss_weights(
    given: Any, items: Sequence[Any], load: Sequence[Any], labels: Mapping[str, int]
) -> torch.Tensor | None:
    r"""Return the weights that the loss of a segmentation gives to the classes.

    Balanced weights are :math:`w_c \propto 1 / n_c`, with :math:`n_c` the training voxels of class c, background
    included (King and Zeng 2001, doi:10.1093/oxfordjournals.pan.a004868), scaled to a mean of 1, so that they leave the
    size of a Dice loss as it is.

    Args:
        given: None: all the same; a list, or a tensor, in the order of the class numbers; or ``"balanced"``.
        items: of the training; read once, and only to balance.
        load: transforms that make of an item one with a ``label`` of class numbers.
        labels: the number of each class by its name.

    Returns:
        The weights (C,), or None.

    Raises:
        ValueError: if ``given`` is something else or of another length, or a class that is to be balanced has no voxel.

    Example:
        >>> import torch
        >>> label = torch.tensor([0, 0, 0, 1])
        >>> voxel_loss_weights("balanced", [{"label": label}], [], {"background": 0, "tumour": 1})
        tensor([0.5000, 1.5000])
    """
    if not isinstance(given, str) or given != _BALANCED:
        return _given_weights(given, len(labels))
    import torch  # not at the top: the commands for data lists do without torch

    counts = torch.zeros(len(labels), dtype=torch.float64)
    for label in _labels(items, load):
        counts += torch.bincount(label.flatten().long(), minlength=len(labels))
    _refuse_absent((name for name, number in labels.items() if counts[number] == 0), "class_weights 'balanced'")
    weights = 1 / counts
    return (weights / weights.mean()).float()


def check_balanced_crops(
    balanced_crops: bool, items: Sequence[Any], load: Sequence[Any], labels: Mapping[str, int]
) -> None:
    """Refuse to balance the crops of a training whose labels lack a class. Reads labels until each class was seen.

    Args:
        balanced_crops: whether crops are to be balanced; nothing is read if not.
        items: as for :func:`voxel_loss_weights`, and likewise the arguments after it.
        load: transforms.
        labels: the number of each class by its name.

    Raises:
        ValueError: if no label has a voxel of some class.
        TypeError: if ``balanced_crops`` is a text, as a command line passes for ``true`` and ``false``.

    Example:
        >>> import torch
        >>> case = {"label": torch.tensor([0, 2])}
        >>> check_balanced_crops(True, [case], [], {"background": 0, "liver": 1, "tumour": 2})
        Traceback (most recent call last):
        ValueError: balanced_crops: no training label holds 'liver'; take it out of labels, or add a case that has it
    """
    missing = dict(labels) if switch("balanced_crops", balanced_crops) else {}
    if missing:
        for label in _labels(items, load):
            missing = {name: number for name, number in missing.items() if not bool((label == number).any())}
            if not missing:
                break
    _refuse_absent(missing, "balanced_crops")


def _labels(items: Sequence[Any], load: Sequence[Any]) -> Iterator[torch.Tensor]:
    import torch
    from monai.transforms import Compose

    transform = Compose(load)
    for item in items:
        yield torch.as_tensor(transform(item)["label"]).as_subclass(torch.Tensor)


def _given_weights(given: Any, num_classes: int) -> torch.Tensor | None:
    if given is None:
        return None
    import torch

    values = given.tolist() if isinstance(given, torch.Tensor) else given
    if not isinstance(values, (list, tuple)) or len(values) != num_classes:
        raise ValueError(
            f"class_weights: expected null, 'balanced' or a list of {num_classes} numbers in the order of the labels, "
            f"got {shown(values)}"
        )
    numbers = ListOf(_WEIGHT).check(values, "class_weights")
    if not any(numbers):
        raise ValueError("class_weights: expected a weight above 0, got zeros only; no class would be learned")
    return torch.tensor(numbers, dtype=torch.float32)


def _refuse_absent(names: Iterable[str], key: str) -> None:
    absent = sorted(names)
    if absent:
        raise ValueError(
            f"{key}: no training label holds {', '.join(map(shown, absent))}; take it out of labels, or add a case "
            "that has it"
        )
