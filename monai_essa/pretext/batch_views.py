# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The views of a batch, and whose they are: crops of one patient are never compared as those of two."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from monai_essa.distributed.processes import gathered_cases
from monai_essa.distributed.shares import own_share
from monai_essa.pretext.masked_prediction import plain_tensor

__all__ = ["COMPARED", "SPREAD", "check_patients", "first_of_each", "view_major"]

SPREAD = 4
"""Patients in a batch whose image tokens KoLeo spreads, at least."""
COMPARED = 8
"""Patients in a batch that NT-Xent and Barlow Twins compare, at least."""


def first_of_each(patients: Sequence[Hashable] | None, count: int) -> list[int]:
    """Return the rows of a batch that are the first of their patient.

    Args:
        patients: of the rows; None: each row is another patient.
        count: number of rows.

    Returns:
        Row numbers in ascending order, where processes share a batch those in the whole of it.

    Raises:
        ValueError: if there is not one patient for each row.

    Example:
        >>> first_of_each(["a", "b", "a"], 3)
        [0, 1]
    """
    share = own_share()
    if patients is None:
        return list(range(count if share is None else share.rows))
    if len(patients) != count:
        raise ValueError(f"expected one patient for each of {count} images, got {len(patients)}")
    if share is not None:
        patients = gathered_cases(list(patients))[: share.rows]
    rows: dict[Hashable, int] = {}
    for row, patient in enumerate(patients):
        rows.setdefault(patient, row)
    return list(rows.values())


def check_patients(count: int, least: int, loss: str, advice: str) -> None:
    """Refuse a batch of too few patients for a loss that compares patients.

    Args:
        count: patients in the batch.
        least: how many the loss needs.
        loss: its name.
        advice: what to do where the batch cannot grow.

    Raises:
        ValueError: if there are fewer than ``least``.

    Example:
        >>> check_patients(1, 4, "KoLeo", "set its weight to 0")
        Traceback (most recent call last):
        ValueError: KoLeo needs 4 patients in a batch or more, got 1: raise batch_size, or set its weight to 0
    """
    if count < least:
        raise ValueError(
            f"{loss} needs {least} patients in a batch or more, got {count}: raise batch_size, or {advice}"
        )


def view_major(crops: Tensor) -> Tensor:
    """Return crops (B, V, C, spatial...) as images (V * B, C, spatial...): all first views, then all second ones.

    Raises:
        ValueError: if there is no axis of views.
    """
    if crops.dim() not in (5, 6):
        raise ValueError(f"expected crops (B, views, C, spatial...), got {tuple(crops.shape)}; make them by MultiCropd")
    return plain_tensor(crops).transpose(0, 1).flatten(0, 1)
