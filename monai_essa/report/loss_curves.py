# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Loss curves of several runs in one picture, from the logs in their folders. Needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from monai_essa.files import written_whole
from monai_essa.report.charts import loss_curves
from monai_essa.report.figures import figure_png
from monai_essa.report.loss_log import read_loss_log

__all__ = ["draw_loss_curves"]


def draw_loss_curves(
    logs: Mapping[str, str | os.PathLike], path: str | os.PathLike, column: str = "loss", title: str = "Training loss"
) -> Path:
    """Draw the curve of each run over its iterations and write the picture.

    Args:
        logs: the ``losses.jsonl`` of each run, by the name that the legend gives it.
        path: the PNG file; its folder is made, an older file replaced.
        column: of the logs; ``"validation.loss"`` is the validation loss of a self-supervised run.
        title: says what is seen.

    Returns:
        The path.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if a log lacks the column or is damaged, or there is none.

    Example:
        >>> draw_loss_curves({"TPP": "tpp/losses.jsonl", "random": "random/losses.jsonl"}, "c.png")  # doctest: +SKIP
    """
    if not logs:
        raise ValueError("logs is empty: expected the losses.jsonl of at least one run, by its name")
    figure = loss_curves({name: read_loss_log(file) for name, file in logs.items()}, column, title)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_bytes(figure_png(figure))
    return path
