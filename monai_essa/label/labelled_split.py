# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Which of the labelled volumes train, and which tell the best epoch."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

__all__ = ["split_labelled"]

_logger = logging.getLogger(__name__)
Item = dict[str, str]


def split_labelled(items: Sequence[Item], val_split: float) -> tuple[list[Item], list[Item]]:
    """Split by a digest of the image's name, so that a volume stays on its side as more labels come in.

    There is always something to validate on, for a run without keeps no best epoch: with one label, or a
    ``val_split`` of 0, the volumes that train.

    Args:
        items: ``{"image": path, "label": path}`` of each.
        val_split: the share that validates, of 0 to 1.

    Returns:
        The items that train, and those that validate.

    Raises:
        ValueError: if there is no label, or ``val_split`` is none.
    """
    if not items:
        raise ValueError("no labels: submit at least one label with the tag 'final', then train")
    if not 0 <= val_split < 1:
        raise ValueError(f"val_split must be at least 0 and below 1, got {val_split}")
    ordered = sorted(items, key=lambda item: hashlib.sha256(Path(item["image"]).name.encode()).hexdigest())
    count = min(max(1, round(val_split * len(ordered))), len(ordered) - 1) if val_split > 0 else 0
    if count == 0:
        _logger.warning("the epoch is chosen on the %d training volumes: their Dice says nothing of others", len(items))
        return ordered, ordered
    return ordered[count:], ordered[:count]
