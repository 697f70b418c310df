# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""report.html of a study: its words are the verdict's, its numbers the tables', and what is missing is said."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
import yaml

from monai_essa.evaluation.run_scores import read_run
from monai_essa.report.html import ReportContent, write_report
from monai_essa.report.study import write_study_report
from monai_essa.report.study.costs import cost_section
from monai_essa.report.study.details import adapter_table
from monai_essa.report.study.folder import read_study
from monai_essa.report.study.page import study_content
from monai_essa.study.export import study_card_facts
from monai_essa.study.outcome import write_verdict
from tests.report.study.conftest import PATIENT

Make = Callable[..., Path]


def text_of(page: Path) -> str:
    html = re.sub(r'src="data:[^"]*"', "", page.read_text(encoding="utf-8"))
    return unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))


def section(content: ReportContent, title: str):
    return next(part for part in content.sections if part.title == title)


def plan_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "plan.yaml").read_text(encoding="utf-8"))


def rewrite(folder: Path, plan: dict) -> None:
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")


@pytest.fixture(scope="module")
def content(trained_study: Path) -> ReportContent:
    return study_content(trained_study)


def test_a_trained_study_has_every_part(content: ReportContent) -> None:
    titles = [part.title for part in content.sections]
    assert titles == [
        "Verdict",
        "Cost against accuracy",
        "Case by case",
        "Best, median and worst case",
        "Training curves",
        "What was loaded",
        "Data",
        "What differs from the base",
    ]
    pictures = section(content, "Best, median and worst case")
    assert [figure.caption.split(",")[0] for figure in pictures.figures] == [
        "The best test case",
        "The worst test case",
    ]
    assert len(section(content, "Training curves").figures) == 2
    assert section(content, "What was loaded").tables[0].rows[0][:3] == ["matched", "137", "1,234,567"]
    assert section(content, "What differs from the base").paragraphs[0] == "PEFT, first repeat."  # the exported arm
    assert 'Exported is "PEFT": it was fixed before the scores were seen.' in section(content, "Verdict").paragraphs[0]


def test_a_page_is_one_file_without_names_or_folders(
    content: ReportContent, trained_study: Path, tmp_path: Path
) -> None:
    html = write_report(tmp_path / "page.html", content).read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    for name in ("image_04", "image_05", PATIENT, str(trained_study), "/data/"):
        assert name not in html


def test_the_verdict_is_that_of_the_file(fabricated_study: Make) -> None:
    folder = fabricated_study("segmentation", effect=0.2)
    verdict = section(study_content(folder), "Verdict")
    written = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert (
        verdict.paragraphs[0] == written["sentence"] and '"SSA, then PEFT" is superior to "PEFT"' in written["sentence"]
    )
    (row,) = verdict.tables[1].rows
    assert row[0] == "SSA, then PEFT against PEFT" and row[-1] == "superior"


@pytest.mark.parametrize(("mean", "warned"), [(0.95, True), (0.1, False)])
def test_the_card_warns_of_a_floor_that_is_ahead_of_what_is_exported(
    mean: float, warned: bool, fabricated_study: Make
) -> None:
    folder = fabricated_study("segmentation")
    plan = plan_of(folder)
    plan["arms"].append({"name": "floor_atlas", "title": "atlas vote", "kind": "floor"})
    rewrite(folder, plan)
    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    verdict["arms"].append({"name": "floor_atlas", "mean": mean, "low": None, "high": None, "n": 12})
    (folder / "verdict.json").write_text(json.dumps(verdict), encoding="utf-8")
    assert (
        any("has a better mean" in each for each in study_card_facts(read_study(folder), "ssa").performance) is warned
    )


def test_the_rates_that_were_tried_stand_in_a_table(fabricated_study: Make) -> None:
    folder = fabricated_study()
    assert "Learning rates" not in {section.title for section in study_content(folder).sections}
    plan = plan_of(folder)
    plan["protocol"]["multipliers"] = [1 / 3, 1.0, 3.0]
    rewrite(folder, plan)
    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    verdict["arms"][0] |= {"rate": 3.0, "tried": [0.2, None, 0.1]}
    (folder / "verdict.json").write_text(json.dumps(verdict), encoding="utf-8")
    section = next(section for section in study_content(folder).sections if section.title == "Learning rates")
    assert section.tables[0].headers[1:] == ["0.333 x the default", "1 x the default", "3 x the default", "taken"]
    assert [row[1:] for row in section.tables[0].rows] == [["0.200", "failed", "0.100", "3 x"]]


def test_a_rival_stands_beside_the_arms_and_is_marked_if_not_blinded(fabricated_study: Make) -> None:
    folder = fabricated_study("segmentation")
    shutil.copytree(folder / "runs" / "1-no_ssa" / "test", folder / "rivals" / "nnU-Net" / "test")
    (folder / "rivals" / "nnU-Net" / "rival.json").write_text('{"blinded": false}', encoding="utf-8")
    write_verdict(folder)
    verdict, _, cases, *_ = study_content(folder).sections
    assert [row[0] for row in verdict.tables[0].rows] == ["SSA, then PEFT", "PEFT", "nnU-Net (not blinded)"]
    assert cases.tables[0].headers[-1] == "mean Dice, nnU-Net" and cases.tables[0].rows[0][-1] != "-"


def test_a_provisional_study_says_so_first(fabricated_study: Make) -> None:
    content = study_content(fabricated_study(provisional="a preset"))
    assert "rovisional: a preset" in section(content, "Verdict").paragraphs[0]


def test_the_way_from_ssa_to_the_task_is_measured(trained_study: Path) -> None:
    runs = trained_study / "runs"
    files = [runs / name / "adapter.safetensors" for name in ("1-ssa", "01-ssa")]
    sentences, tables = adapter_table(*files)
    assert "From the adapter of SSA" in sentences[1] and len(tables[0].rows) == 12
    moved = [float(row[2]) for row in tables[0].rows]
    assert moved == sorted(moved, reverse=True) and 0 < moved[0] < 1


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_cases_stand_worst_first_with_the_means_of_their_repeats(task: str, fabricated_study: Make) -> None:
    folder = fabricated_study(task)
    (table,) = section(study_content(folder, show_ids=True), "Case by case").tables
    assert table.rows[0][0] in ("scan.png",) and "scan.png" not in str(study_content(folder).sections[2].tables)
    scores = [
        float(row[table.headers.index("mean Dice" if task == "segmentation" else "Brier score")]) for row in table.rows
    ]
    assert scores == sorted(scores, reverse=task == "classification") and len(scores) == 12
    runs = [read_run(folder / "runs" / f"{repeat}-ssa") for repeat in (1, 2, 3)]
    means = sorted(sum(run.scores[case] for run in runs) / 3 for case in runs[0].scores)
    assert sorted(scores) == pytest.approx(means, abs=6e-4)


def test_a_classification_shows_reliability_and_roc(fabricated_study: Make) -> None:
    shown = section(study_content(fabricated_study()), "Reliability and ROC")
    assert len(shown.figures) == 2
    assert "the area under the ROC curve is 1.000" in shown.paragraphs[-1]


def test_costs_count_what_comes_before_but_for_the_base(trained_study: Path) -> None:
    (table,) = cost_section(read_study(trained_study), {}).tables
    minutes = {row[0]: row[1] for row in table.rows}
    assert minutes == {"SSA, then PEFT": "1.3", "PEFT": "1.0"}  # one SSA for three repeats in this folder
    assert "The base that was made here took 1.0 minutes" in table.note


def test_failed_and_missing_pieces_are_said(fabricated_study: Make) -> None:
    folder = fabricated_study("segmentation")
    (folder / "verdict.json").unlink()
    (folder / "stages" / "1-no_ssa.failed").write_text("out of memory\n", encoding="utf-8")
    for repeat in (1, 2, 3):
        shutil.rmtree(folder / "runs" / f"{repeat}-no_ssa")
    text = text_of(write_study_report(folder))
    assert "There is no verdict yet." in text
    assert "PEFT (failed: out of memory)" in text
    assert "is not drawn" in text and "No run has a log of its losses" in text


def test_a_study_that_has_not_begun_has_a_page(fabricated_study: Make) -> None:
    folder = fabricated_study()
    for name in ("runs", "stages"):
        shutil.rmtree(folder / name)
    (folder / "verdict.json").unlink()
    text = text_of(write_study_report(folder))
    assert "There is no verdict yet." in text and "PEFT (not tested yet)" in text


def test_a_study_without_labels_has_a_page(fabricated_study: Make) -> None:
    folder = fabricated_study()
    plan = plan_of(folder)
    plan |= {
        "arms": [],
        "dropped": [],
        "stages": [plan["stages"][1] | {"name": "01-ssa", "kind": "ssa", "arm": None, "run": "01-ssa", "needs": []}],
    }
    plan["protocol"] |= {"design": "none", "sentences": ["No labels, so nothing is tested: SSA alone runs."]}
    rewrite(folder, plan)
    (folder / "verdict.json").unlink()
    text = text_of(write_study_report(folder))
    assert "SSA alone runs." in text and "No arm was planned" in text


def test_text_of_a_plan_is_never_html(fabricated_study: Make) -> None:
    folder = fabricated_study()
    plan = plan_of(folder)
    plan["arms"][0]["title"] = "<script>alert(1)</script> $x_{$"
    plan["protocol"]["base"] = "<img src=x onerror=alert(1)>"
    rewrite(folder, plan)
    html = write_study_report(folder).read_text(encoding="utf-8")
    assert "<script" not in html and "<img src=x" not in html and "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan["stages"][0].update(run="../../etc"), "run"),
        (lambda plan: plan["stages"][0].update(kind="rm"), "kind"),
        (lambda plan: plan["arms"][0].update(title=7), "title"),
        (lambda plan: plan.update(stages="many"), "stages"),
        (lambda plan: plan["protocol"].update(base="two\nlines"), "base"),
    ],
)
def test_a_damaged_plan_is_one_line(change, message: str, fabricated_study: Make) -> None:
    folder = fabricated_study()
    plan = plan_of(folder)
    change(plan)
    rewrite(folder, plan)
    with pytest.raises(ValueError, match=message) as caught:
        write_study_report(folder)
    assert "plan.yaml" in str(caught.value) and "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


def test_a_plan_is_read_by_a_safe_loader(fabricated_study: Make) -> None:
    folder = fabricated_study()
    (folder / "plan.yaml").write_text("a: !!python/object/apply:os.system ['true']\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected the plan of a study"):
        write_study_report(folder)


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="plan.yaml"):
        write_study_report(tmp_path)


def test_a_verdict_of_a_later_version_may_say_more(fabricated_study: Make) -> None:
    folder = fabricated_study()
    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    verdict["arms"][0]["auc"] = 0.9
    verdict["comparisons"].append(verdict["comparisons"][0] | {"p": None, "metric": "AUC", "patients": None})
    (folder / "verdict.json").write_text(json.dumps(verdict), encoding="utf-8")
    text = text_of(write_study_report(folder))
    assert 'is superior to "PEFT"' in text and "SSA, then PEFT against PEFT, AUC" in text
