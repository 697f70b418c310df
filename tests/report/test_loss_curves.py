# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A picture of loss curves from the logs of runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_essa.report.charts import draw_loss_curves

pytest.importorskip("matplotlib", reason="figures need the extra [report]")


@pytest.fixture
def logs(tmp_path: Path) -> dict[str, Path]:
    files = {}
    for name, losses in {"TPP": [0.9, 0.5], "random": [1.0, 0.8]}.items():
        rows = [
            {"epoch": epoch, "iteration": 5 * epoch, "loss": loss, "validation": {"loss": loss + 1}}
            for epoch, loss in enumerate(losses, 1)
        ]
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


def test_the_picture_shows_the_runs_and_nothing_else_is_left(logs: dict[str, Path], tmp_path: Path) -> None:
    one = draw_loss_curves({"TPP": logs["TPP"]}, tmp_path / "figures" / "one.png")
    both = draw_loss_curves(logs, tmp_path / "figures" / "both.png")
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in (one, both)]
    second_colour = [(picture == (0xD5, 0x5E, 0x00)).all(-1).sum() for picture in pictures]
    assert second_colour[0] == 0 < second_colour[1]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"one.png", "both.png"}


def test_the_validation_loss_can_be_drawn(logs: dict[str, Path], tmp_path: Path) -> None:
    draw_loss_curves(logs, tmp_path / "both.png", column="validation.loss")
    with pytest.raises(ValueError, match="the log of 'TPP' has the columns .*, expected validation.dice"):
        draw_loss_curves(logs, tmp_path / "both.png", column="validation.dice")


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="logs is empty: expected the losses.jsonl of at least one run"):
        draw_loss_curves({}, tmp_path / "none.png")
