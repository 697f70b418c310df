# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Loss logs as CSV and JSON lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_essa.report.charts import read_loss_log


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_csv_and_json_lines_read_alike(tmp_path: Path) -> None:
    csv = read_loss_log(_write(tmp_path, "a.csv", "epoch,iteration,loss\n1,4,0.5\n2,8,0.25\n"))
    rows = '{"epoch": 1, "iteration": 4, "loss": 0.5}\n{"epoch": 2, "iteration": 8, "loss": 0.25}\n'
    jsonl = read_loss_log(_write(tmp_path, "a.jsonl", rows))

    assert list(csv) == list(jsonl) == ["epoch", "iteration", "loss"]
    for name, values in {"epoch": [1, 2], "iteration": [4, 8], "loss": [0.5, 0.25]}.items():
        np.testing.assert_array_equal(csv[name], values)
        np.testing.assert_array_equal(jsonl[name], values)


def test_a_nested_object_becomes_columns_and_a_missing_value_nan(tmp_path: Path) -> None:
    text = '{"epoch": 1, "loss": 0.5}\n\n{"epoch": 2, "loss": null, "validation": {"dice": 0.8}}\n'
    log = read_loss_log(_write(tmp_path, "a.jsonl", text))

    np.testing.assert_array_equal(log["validation.dice"], [np.nan, 0.8])
    np.testing.assert_array_equal(log["loss"], [0.5, np.nan])


def test_diverged_losses_are_read_as_they_are(tmp_path: Path) -> None:
    log = read_loss_log(_write(tmp_path, "a.jsonl", '{"epoch": 1, "loss": NaN}\n{"epoch": 2, "loss": Infinity}\n'))

    np.testing.assert_array_equal(log["loss"], [np.nan, np.inf])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "loss\n1\n", "suffix '.txt'; a loss log is a .csv or a .jsonl file"),
        ("a.csv", "epoch,loss\n", "a.csv holds no row"),
        ("a.jsonl", "", "a.jsonl holds no row"),
        ("a.csv", "epoch,loss\n1,high\n", "a.csv: loss is 'high', expected a number"),
        ("a.jsonl", '{"loss": [1]}\n', r"a.jsonl: loss is \[1\], expected a number"),
        ("a.jsonl", '{"loss": 1}\n{"los', "a.jsonl has a line that is not JSON"),
        ("a.jsonl", "3\n", "a.jsonl has a line that is not a JSON object: 3"),
    ],
)
def test_a_damaged_log_is_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_loss_log(_write(tmp_path, name, text))
