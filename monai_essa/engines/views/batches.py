# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Batches of views for a trainer, an evaluator or a meter: the crops of MultiCropd, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from monai.utils.enums import CommonKeys as Keys

from monai_essa.anatomy import FeatureMapEncoder, encoder_view
from monai_essa.data.transforms.multi_crop import LOCAL
from monai_essa.pretext.diet import DIET

__all__ = ["empty_views", "local_crop_size", "prepare_numbered_batch", "prepare_views_batch"]

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


def local_crop_size(network: nn.Module, img_size: Sequence[int]) -> list[int]:
    """Return the size of a local crop: half of a global one, rounded up to steps of the encoder.

    Args:
        network: a network whose encoder is known.
        img_size: voxels of a global crop.

    Returns:
        Voxels along each axis; two steps of a SwinUNETR or a CNN at least, which have no feature map of one position.

    Example:
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 48, 16, hidden_size=48, mlp_dim=96, num_layers=1, num_heads=4)
        >>> local_crop_size(net, (48, 48, 96))
        [32, 32, 48]
    """
    view = encoder_view(network)
    least = 2 if isinstance(view, FeatureMapEncoder) else 1
    pairs = list(zip(img_size, view.stride, strict=True))
    return [min(size, step * max(least, -(-size // (2 * step)))) for size, step in pairs]


def empty_views(
    objective: nn.Module, batch: int, channels: int, views: Sequence[int], sizes: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Return what an objective of views is called with, on the meta device: for a meter only shapes count.

    Args:
        objective: of ``monai_essa.pretext``.
        batch: B.
        channels: C.
        views: the numbers of global and local views.
        sizes: of a global and of a local crop.

    Returns:
        Global views and, if there are any, local ones; for DIET the numbers of the images.

    Example:
        >>> [tuple(part.shape) for part in empty_views(nn.Identity(), 4, 1, (2, 3), ((16, 16), (8, 8)))]
        [(4, 2, 1, 16, 16), (4, 3, 1, 8, 8)]
    """
    crops = [
        torch.empty(batch, count, channels, *size, device="meta")
        for count, size in zip(views, sizes, strict=True)
        if count
    ]
    if isinstance(objective, DIET):
        return [crops[0], torch.empty(batch, dtype=torch.int64, device="meta")]
    return crops
