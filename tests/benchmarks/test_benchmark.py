# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the page of the benchmark: a quick run on the smallest network has every row and ratios that fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.contenders import COUNTED, timed_contenders
from benchmarks.run import main


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("peft")
    file = tmp_path_factory.mktemp("page") / "page.md"
    main(["--quick", "--work", "vit", "--out", str(file)])
    return file.read_text(encoding="utf-8")


def table_under(page, heading):
    """Give the rows of the first table after a heading, each as a mapping from its columns."""
    lines = page[page.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


@pytest.mark.full  # they share a run of every contender
def test_every_contender_has_its_row_and_ratio(page):
    rows = table_under(page, "## A training step, counted")
    assert [row["training"] for row in rows] == [contender.name for contender in COUNTED]
    peaks = [float(row["peak, MiB"]) for row in rows]
    for row, peak in zip(rows, peaks, strict=True):
        assert float(row["peak ratio"]) == pytest.approx(peak / peaks[0], abs=0.03)
    assert rows[0]["peak ratio"] == rows[0]["FLOPs ratio"] == "1.000"


@pytest.mark.full  # they share a run of every contender
def test_every_timed_contender_has_its_row(page):
    rows = table_under(page, "## A training step, timed")
    assert [row["training"] for row in rows] == [contender.name for contender in timed_contenders()]
    assert rows[0]["time ratio"] == "1.000"
    counted = {row["training"]: row["FLOPs ratio"] for row in table_under(page, "## A training step, counted")}
    shared = [row for row in rows if row["training"] in counted]
    assert len(shared) == 7 and all(row["FLOPs ratio"] == counted[row["training"]] for row in shared)


@pytest.mark.full  # they share a run of every contender
def test_growth_adapters_and_data_are_there(page):
    assert [row["side"] for row in table_under(page, "## Growth with the volume")] == ["64", "96"]
    assert len(table_under(page, "## Adapters")) == 3
    assert [row["sample"] for row in table_under(page, "## Data pipeline")] == [
        "no cache",
        "CacheDataset",
        "mapped cache",
    ]


@pytest.mark.full  # they share a run of every contender
def test_the_page_says_what_it_was_made_with_and_on(page):
    assert "python -m benchmarks.run --work vit --quick --out docs/benchmark.md" in page
    for name in ("python", "torch", "monai", "monai_essa", "peft"):
        assert re.search(rf"\b{name} \d+\.\d+", page)
    assert "shows that the command works and no more" in page
    assert ("not measured on a GPU" in page) != ("measured peak" in page)
    assert "/tmp" not in page and "/home" not in page


def test_the_committed_page_has_the_rows_of_today():
    page = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    for work in ("### ViT-B/16, reconstruction head", "### MAE", "### UNETR-B", "### SwinUNETR-48"):
        assert [row["training"] for row in table_under(page, work)] == [contender.name for contender in COUNTED]
    assert [row["training"] for row in table_under(page, "### ViT-S/16")] == [c.name for c in timed_contenders()]


def test_an_unknown_work_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--work", "resnet"])
    assert "invalid choice: 'resnet'" in capsys.readouterr().err
