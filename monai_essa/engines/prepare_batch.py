# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Take from a batch what a pretext objective needs: images and, where there is one, their foreground; never a label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.utils.enums import CommonKeys

from monai_essa.switch import switch

__all__ = ["prepare_unlabelled_batch", "unlabelled_keys"]

FOREGROUND = "foreground"


def prepare_unlabelled_batch(
    batch: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Give the ``prepare_batch`` of a self-supervised trainer or evaluator.

    MONAI's default hands the label to the network's objective, where a pretext objective takes a foreground mask.

    Args:
        batch: a collated batch with ``"image"`` (B, C, spatial...) and perhaps ``"foreground"`` (B, 1, spatial...).
        device: where the tensors go.
        non_blocking: as in ``Tensor.to``.
        kwargs: further arguments of ``Tensor.to``; MONAI's engines pass their ``to_kwargs``.

    Returns:
        Images, and the foreground mask or None.

    Example:
        >>> images, foreground = prepare_unlabelled_batch({"image": torch.zeros(2, 1, 8, 8), "label": torch.ones(2)})
        >>> images.shape, foreground
        (torch.Size([2, 1, 8, 8]), None)
    """
    images = batch[CommonKeys.IMAGE].to(device=device, non_blocking=non_blocking, **kwargs)
    if FOREGROUND not in batch:
        return images, None
    return images, batch[FOREGROUND].to(device=device, non_blocking=non_blocking, **kwargs)


def unlabelled_keys(weight_foreground: bool = True) -> list[str]:
    """Name the entries of an item that a self-supervised stage loads: the image and, if it counts, its foreground.

    Args:
        weight_foreground: patches count in the loss by their share of foreground.

    Raises:
        TypeError: if ``weight_foreground`` is a text: a command line gives one for ``true`` and ``false``.

    Example:
        >>> unlabelled_keys(), unlabelled_keys(weight_foreground=False)
        (['image', 'foreground'], ['image'])
    """
    keys = [str(CommonKeys.IMAGE), FOREGROUND]
    return keys if switch("weight_foreground", weight_foreground) else keys[:1]
