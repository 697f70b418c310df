# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Batches of views for a trainer or an evaluator: the crops of MultiCropd, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.utils.enums import CommonKeys as Keys

from monai_essa.data.transforms.multi_crop import LOCAL

__all__ = ["prepare_numbered_batch", "prepare_views_batch"]

PATIENT, NUMBER = "patient", "number"


def prepare_views_batch(
    batch: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor | None, list[int] | None]:
    """Prepare a batch of views for an objective that compares patients: the ``prepare_batch`` of a trainer.

    Args:
        batch: a collated batch of ``MultiCropd``: ``"image"`` (B, G, C, spatial...), perhaps ``"local"`` and
            ``"patient"``, the number of each patient.
        device: where the tensors go.
        non_blocking: as in ``Tensor.to``.
        kwargs: further arguments of ``Tensor.to``; MONAI's engines pass their ``to_kwargs``.

    Returns:
        Global views, local views or None, and the patients or None. Patients stay on the CPU: which rows are compared
        must be known before the step.

    Example:
        >>> crops, local, patients = prepare_views_batch({"image": torch.zeros(2, 2, 1, 8, 8), "patient": [4, 4]})
        >>> crops.shape, local, patients
        (torch.Size([2, 2, 1, 8, 8]), None, [4, 4])
    """
    crops = batch[Keys.IMAGE].to(device=device, non_blocking=non_blocking, **kwargs)
    local = batch[LOCAL].to(device=device, non_blocking=non_blocking, **kwargs) if LOCAL in batch else None
    return crops, local, [int(patient) for patient in batch[PATIENT]] if PATIENT in batch else None


def prepare_numbered_batch(
    batch: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prepare a batch of views for an objective that tells images apart by their numbers (DIET).

    Args:
        batch: a collated batch of ``MultiCropd`` with ``"image"`` (B, V, C, spatial...) and ``"number"``.
        device: where the tensors go.
        non_blocking: as in ``Tensor.to``.
        kwargs: further arguments of ``Tensor.to``, for the images.

    Returns:
        Views, and the numbers of their images (B).

    Raises:
        KeyError: if the items have no number; ``numbered_items`` gives them one.

    Example:
        >>> views, numbers = prepare_numbered_batch({"image": torch.zeros(2, 1, 1, 8, 8), "number": [5, 0]})
        >>> numbers
        tensor([5, 0])
    """
    if NUMBER not in batch:
        raise KeyError(f"the batch has no {NUMBER!r}: give the data set items of monai_essa.data.numbered_items")
    numbers = torch.as_tensor(batch[NUMBER]).to(device=device, non_blocking=non_blocking)
    return batch[Keys.IMAGE].to(device=device, non_blocking=non_blocking, **kwargs), numbers
