# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What is read back from a run, and the table that compares methods."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from monai.handlers.utils import write_metrics_reports

from monai_essa.adapters.summary import Summary
from monai_essa.demo.outcome import TrainedStage, comparison_table, mean_by_case, read_dice, stages_table
from monai_essa.report.tables import MethodResult
from monai_essa.study.stages import Stage


def result(name: str, *cases: float) -> MethodResult:
    return MethodResult(name, {"liver": list(cases)}, trainable=1, total=2, seconds=3.0)


def test_dice_is_what_monai_wrote(tmp_path: Path) -> None:
    details = {"dice": np.array([[0.25, 0.5], [0.75, math.nan]])}
    write_metrics_reports(tmp_path, ["a.nii", "b.nii"], None, details, None)

    dice = read_dice(tmp_path / "dice_raw.csv", ["liver", "spleen"])

    assert dice["liver"] == [0.25, 0.75]
    assert dice["spleen"] == [0.5, pytest.approx(math.nan, nan_ok=True)]


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    write_metrics_reports(tmp_path, ["a.nii"], None, {"dice": np.array([[0.25, 0.5]])}, None)

    with pytest.raises(ValueError, match="holds 2 classes, expected 1: liver"):
        read_dice(tmp_path / "dice_raw.csv", ["liver"])


def test_absent_classes_are_left_out_of_the_mean_of_a_case() -> None:
    means = mean_by_case({"liver": [0.5, 0.75, math.nan], "spleen": [0.7, math.nan, math.nan]})

    np.testing.assert_allclose(means, [0.6, 0.75, math.nan])


def test_a_comparison_counts_cases_whoever_is_higher() -> None:
    others = [result("without SSA", 0.6, 0.5, 0.5, 0.6), result("majority vote", 0.1, 0.1, 0.1, 0.1)]

    table = comparison_table([result("after SSA", 0.5, 0.5, 0.6, 0.2), *others])

    assert table.title.endswith("after SSA")
    assert table.rows == [
        ["without SSA", "-0.100", "1 of 4", "2 of 4"],
        ["majority vote", "+0.350", "4 of 4", "0 of 4"],
    ]


def test_a_case_without_any_class_counts_for_nobody() -> None:
    table = comparison_table([result("after SSA", 0.5, math.nan), result("without SSA", 0.4, math.nan)])

    assert table.rows == [["without SSA", "+0.100", "1 of 2", "0 of 2"]]


def test_a_row_of_the_stages_holds_steps_parameters_and_file_size(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "iteration": 24, "loss": 1.0}, {"epoch": 2, "iteration": 48, "loss": 0.5}]
    (tmp_path / "losses.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "adapter.safetensors").write_bytes(bytes(1_500_000))
    stage = Stage("ssa", "SSA", "essa_ssa", (), {"output_dir": str(tmp_path)})

    table = stages_table([TrainedStage(stage, 12.34, Summary({"encoder": (1000, 20000)}, 0))])

    assert table.rows == [["SSA", "48", "1,000 of 20,000", "12.3", "1.50 MB"]]
