# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa cost` prints a table, writes cost.json and a figure, and refuses nonsense in one line."""

from __future__ import annotations

import json

import pytest

from monai_essa.cli import main

SMALL = ["cost", "--network", "vit_s", "--size", "32", "--batch", "2", "--methods", "apla,lora", "--lean", "small"]


def test_table_file_and_figure(tmp_path, capsys):
    assert main([*SMALL, "--out", str(tmp_path / "cost")]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[3:6]] == ["full,", "apla", "lora"]
    written = json.loads((tmp_path / "cost" / "cost.json").read_text(encoding="utf-8"))
    assert written["work"]["network"] == "vit_s" and [row["method"] for row in written["rows"]][1:] == ["apla", "lora"]
    assert (tmp_path / "cost" / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_objectives_of_views_are_measured_too(tmp_path, capsys):
    peaks = {}
    for objective in ("dinov2", "contrastive", "diet"):
        assert (
            main([*SMALL, "--methods", "apla", "--batch", "8", "--objective", objective, "--out", str(tmp_path)]) == 0
        )
        rows = json.loads((tmp_path / "cost.json").read_text(encoding="utf-8"))["rows"]
        peaks[objective] = rows[1]["peak_bytes"]
        assert rows[1]["peak_bytes"] < rows[0]["peak_bytes"]
    assert peaks["dinov2"] > max(peaks["contrastive"], peaks["diet"])  # it has a teacher and the largest head


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "vit_x"], "expected network to be one of"),
        (["--methods", "alpa"], "expected a method of"),
        (["--lean", "tiny"], "lean must be one of none, fast, small"),
        (["--batch", "0"], "--batch: expected a whole number from 1 to 10000, got 0"),
        (["--size", "9" * 30], "--size: expected a whole number from 1 to 10000"),
    ],
)
def test_nonsense_is_one_line(arguments, message, tmp_path, capsys):
    assert main([*SMALL, "--out", str(tmp_path), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
