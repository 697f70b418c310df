# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""report.html of ordinary runs, and `monai-essa report`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from monai_essa.report.cases import telling_cases
from monai_essa.report.charts import figure_png
from monai_essa.report.panels import SegmentationCase, overlay_figure
from monai_essa.report.runs import write_run_report
from monai_essa.report.study.results import structure_table
from monai_essa.report.study.scores import arm_table
from tests.cli.conftest import files, finished_run, monai_essa, segmentation_runs, volumes

__all__ = ["files", "finished_run", "monai_essa", "segmentation_runs", "volumes"]


def text_of(page: Path) -> str:
    html = re.sub(r'src="data:[^"]*"', "", page.read_text(encoding="utf-8"))
    return unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))


@pytest.fixture
def scored(segmentation_runs: tuple[Path, Path], volumes: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two finished runs with tables of two volumes and the losses of two epochs."""
    folders = []
    for number, run in enumerate(segmentation_runs):
        folder = shutil.copytree(run, tmp_path / run.name)
        (folder / "test").mkdir()
        rows = [f"{volumes}/case{case}.nii.gz,{0.5 + 0.1 * case + 0.01 * number},{0.5}" for case in (0, 3)]
        (folder / "test" / "dice_raw.csv").write_text("\n".join(["filename,class0,mean", *rows]), encoding="utf-8")
        lines = [json.dumps({"epoch": epoch, "iteration": epoch, "loss": 1 / epoch}) for epoch in (1, 2)]
        (folder / "losses.jsonl").write_text("\n".join(lines), encoding="utf-8")
        folders.append(folder)
    return folders[0], folders[1]


def test_a_run_with_its_data_list_has_pictures(scored: tuple[Path, Path], volumes: Path) -> None:
    page = write_run_report([scored[0]], datalist=volumes / "dataset.json")
    html = page.read_text(encoding="utf-8")
    assert page == scored[0] / "report.html" and html.count("<img") == 4  # patients, best, worst, losses
    text = text_of(page)
    assert "0.650" in text and "case3" not in text and str(volumes) not in html


def test_several_runs_stand_side_by_side(scored: tuple[Path, Path], monai_essa: Callable, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    given = monai_essa("report", *scored, "--out", out, "--show-ids")
    assert (given.code, given.out) == (0, f"wrote {out}\n"), given.err
    text = text_of(out)
    assert "2 runs" in text and "mean Dice, site_b" in text and "case3.nii.gz" in text
    assert "monai-essa compare answers it" in text


def test_a_run_without_scores_or_losses_has_a_page(segmentation_runs: tuple[Path, Path], tmp_path: Path) -> None:
    text = text_of(write_run_report([segmentation_runs[0]], tmp_path / "page.html"))
    assert "No run here has been scored" in text and "no log of its losses" in text


def test_runs_of_two_tasks_are_refused(scored: tuple[Path, Path]) -> None:
    table = scored[1] / "test" / "dice_raw.csv"
    table.rename(table.with_name("predictions.csv")).write_text("image,label,a,b\nx.png,a,0.6,0.4\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected runs of one task"):
        write_run_report(scored)


def test_a_folder_that_is_no_run_is_one_line(monai_essa: Callable, tmp_path: Path) -> None:
    given = monai_essa("report", tmp_path)
    assert given.code == 1 and "run.json: no such file" in given.err and len(given.err.splitlines()) == 1


def test_a_record_is_shown_as_text(scored: tuple[Path, Path]) -> None:
    record = json.loads((scored[0] / "run.json").read_text(encoding="utf-8"))
    record["command"], record["settings"]["<b>"] = "<script>1</script>", "\x1b[2J"
    (scored[0] / "run.json").write_text(json.dumps(record), encoding="utf-8")
    html = write_run_report([scored[0]]).read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;b&gt;" in html and "\x1b" not in html


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ("", {}),
        ("a", {"best": "a"}),
        ("ab", {"best": "b", "worst": "a"}),
        ("abcde", {"best": "e", "median": "c", "worst": "a"}),
    ],
)
def test_cases_to_show(cases: str, expected: dict[str, str]) -> None:
    assert telling_cases(list(cases)) == expected


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 5)])
@pytest.mark.parametrize("holds", ["label", "prediction", "nothing"])
def test_overlays_are_drawn_in_two_and_three_dimensions(shape: tuple[int, ...], holds: str) -> None:
    image, there, empty = np.random.default_rng(0).normal(size=shape), np.zeros(shape, int), np.zeros(shape, int)
    there[2:4, 3:6] = 1
    maps = {"label": (there, empty), "prediction": (empty, there), "nothing": (empty, empty)}[holds]
    figure = overlay_figure(SegmentationCase("a", image, *maps, (1.0, 2.0, 3.0)), ["one"])
    assert len(figure.axes) == (3 if len(shape) == 2 else 9)
    assert figure_png(figure).startswith(b"\x89PNG")


def test_structures_are_counted_over_all_cases(scored: tuple[Path, Path]) -> None:
    header = "image,class,outcome,dice,nsd,hd95_mm,volume_ml,label_volume_ml"
    rows = ["a.nii,ball,found,0.8,0.9,2,1,1.5", "b.nii,ball,missed,0,0,,0,1.5", "c.nii,<b>,added,,,,2,0"]
    (scored[0] / "test" / "cases.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    table = arm_table([scored[0]])
    assert table is not None
    (found,) = structure_table(table)
    assert found.headers[-3:] == ["HD95, mm", "volume, ml", "of the label"]
    assert found.rows == [
        ["ball", "1", "1", "0", "0", "0.400", "0.450", "2.000", "0.500", "1.500"],
        ["<b>", "0", "0", "1", "0", "-", "-", "-", "2.000", "0.000"],
    ]
    assert "&lt;b&gt;" in write_run_report([scored[0]]).read_text(encoding="utf-8")


@pytest.mark.parametrize("row", ["a.nii,ball,found,much,0.9,2,1,1.5", "a.nii,ball,found", "a,b,found,1,1,1,1,1,1"])
def test_a_damaged_table_of_structures_is_one_line(row: str, scored: tuple[Path, Path]) -> None:
    header = "image,class,outcome,dice,nsd,hd95_mm,volume_ml,label_volume_ml"
    (scored[0] / "test" / "cases.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"cases\.csv") as caught:
        write_run_report([scored[0]])
    assert "\n" not in str(caught.value)
