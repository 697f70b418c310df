# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`adapt` hands its options to the study, and refuses what cannot be meant in one line before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monai_essa.study import run as run_module
from monai_essa.study.terms.request import StudyRequest, check_values


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    called: list[Any] = []
    monkeypatch.setattr(run_module, "run_study", lambda *given: called.append(given) or 0)
    return called


def test_the_options_are_handed_over(monai_essa, asked: list[Any]) -> None:
    line = ["scans", "--labels", "masks", "--label-count", 10, "--hours", 0.5, "--margin", 0.01, "--seed", 3]
    line += [
        "--objective",
        "dinov2",
        "--memory",
        "12GB",
        "--rival",
        "nnunet=theirs",
        "--out",
        "here",
        "--dry-run",
        "--gpus",
        2,
        "batch_size=4",
    ]
    assert monai_essa("adapt", *line).code == 0
    ((request, folder, dry_run, splits, processes),) = asked
    assert (request.scans, request.labels, folder, dry_run) == (Path("scans"), Path("masks"), Path("here"), True)
    assert (request.split.label_count, request.split.seed, request.study.seed) == (10, 3, 3)
    assert (request.study.hours, request.margin, request.memory) == (0.5, 0.01, 12 * 10**9)
    assert (
        splits is None
        and processes == 2
        and request.study.objective == "dinov2"
        and request.canonical()["objective"] == "dinov2"
    )
    assert request.rivals == {"nnunet": Path("theirs")} and request.study.values == {"batch_size": 4}


def test_repeats_are_five_unless_they_are_given_and_fewer_than_three_decide_nothing(
    monai_essa, asked: list[Any]
) -> None:
    assert monai_essa("adapt", "scans").code == monai_essa("adapt", "scans", "--repeats", 3).code == 0
    assert [request.split.repeats for request, *_ in asked] == [5, 3]
    refused = monai_essa("adapt", "scans", "--repeats", 2)
    assert refused.code == 1 and "--repeats: expected 3 to 20" in refused.err and len(asked) == 2


def test_several_numbers_of_labels_may_stand_before_a_value(monai_essa, asked: list[Any]) -> None:
    assert monai_essa("adapt", "scans", "--label-count", 10, 3, 50, "batch_size=4").code == 0
    request = asked[0][0]
    assert (request.split.label_count, request.split.further) == (10, (3, 50))
    assert request.study.values == {"batch_size": 4} and request.canonical()["further_labels"] == [3, 50]


def test_values_of_an_objective_belong_to_it(monai_essa, asked: list[Any], tmp_path: Path) -> None:
    refused = monai_essa("adapt", "scans", "--out", tmp_path / "study", "prototypes=64", "--dry-run")
    assert asked and refused.code == 0  # the command hands over; the study refuses what no config has
    with pytest.raises(ValueError, match="'prototypes': expected a key of a train.yaml"):
        check_values(StudyRequest(values={"prototypes": 64}))
    check_values(StudyRequest(values={"prototypes": 64}, objective="dinov2"))


def test_values_may_stand_before_the_options_too(monai_essa, asked: list[Any]) -> None:
    assert monai_essa("adapt", "scans", "lr=1.0e-3", "--hours", 1, "img_size=[32,32,32]").code == 0
    assert asked[0][0].study.values == {"lr": 1.0e-3, "img_size": [32, 32, 32]}


def test_the_values_of_an_overlay_lie_below_those_of_the_line(monai_essa, asked: list[Any], tmp_path: Path) -> None:
    overlay = tmp_path / "own.yaml"
    overlay.write_text("img_size: [64, 64]\nbatch_size: 8\n", encoding="utf-8")
    assert monai_essa("adapt", "scans", "--overlay", overlay, "batch_size=4").code == 0
    study = asked[0][0].study
    assert study.values == {"img_size": [64, 64], "batch_size": 4}
    assert study.overlay.parts == {} and asked[0][0].canonical()["overlay"]["batch_size"] == 8


def test_an_overlay_with_what_the_study_sets_is_refused_in_a_line(monai_essa, tmp_path: Path) -> None:
    for text, error in (("output_dir: x", "'output_dir': the study"), ("x: {_target_: a.b}", "'x': expected a key")):
        (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
        result = monai_essa("adapt", "scans", "--overlay", tmp_path / "own.yaml", "--out", tmp_path / "study")
        assert result.code == 1 and result.err.startswith(f"monai-essa: {error}")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (["--hours", "soon"], "--hours 'soon': expected a number, such as 0.5"),
        (["--hours", "-1"], "--hours '-1': expected a number above 0"),
        (["--margin", "7"], "--margin: expected a number from 0 to 1, got 7.0"),
        (["--memory", "much"], "--memory much: expected an amount such as 12GB"),
        (["--pretrained", "nowhere.pt"], "--pretrained nowhere.pt: no such file or folder"),
        (["--rival", "nnunet"], "--rival 'nnunet': expected NAME=PATH"),
        (["--rival", "../x=masks"], "the name of --rival: expected text"),
        (["--label-count", "0"], "label_count: expected a whole number from 1"),
        (["--label-count", "few"], "--label-count 'few': expected whole numbers"),
        (["--label-count", "10", "10"], "label_count: a number comes twice"),
        (["--unknown"], "'--unknown': expected an option of adapt, or KEY=VALUE"),
        (["lr=$code"], "lr: text that begins with '$', '@' or '%' is code to MONAI"),
        (["output_dir=x"], "'output_dir': the study sets this itself; leave it out"),
        (["nothing=1"], "'nothing': expected a key of a train.yaml"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(monai_essa, line: list[str], error: str, tmp_path: Path) -> None:
    result = monai_essa("adapt", "scans", "--out", tmp_path / "study", *line)
    assert result.code == 1
    assert result.err.startswith(f"monai-essa: {error}") and result.err.count("\n") == 1
    assert not (tmp_path / "study").exists()
