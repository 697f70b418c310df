# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The demo from end to end, at the smallest size that runs every stage."""

from __future__ import annotations

import contextlib
import io
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_essa.demo import DemoSize, Epochs, run_demo
from monai_essa.demo import run as run_module
from monai_essa.demo.cohort import CohortSize
from monai_essa.demo.outcome import read_dice
from tests.docs.shown_commands import run_line

SIZE = DemoSize(
    CohortSize(source=2, unlabeled=2, training=3, validation=1, test=2),
    img_size=(48, 64, 48),
    hidden_size=24,
    feature_size=4,
    epochs=Epochs(1, 1, 1),
)
finished_demo = pytest.mark.slow(reason="the first of these tests runs the demo: five trainings, each evaluated")
STAGES = ("pretrain", "ssa", "with_ssa", "without_ssa", "from_nothing")


@pytest.fixture(scope="module")
def printed() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, printed: io.StringIO) -> Path:
    pytest.importorskip("nilearn")
    output = tmp_path_factory.mktemp("run") / "demo"
    with contextlib.redirect_stdout(printed):
        assert run_demo(None, output, 0, SIZE) == 0
    return output


@finished_demo
def test_every_stage_leaves_a_plain_network_and_an_adapter(finished: Path) -> None:
    for name in STAGES:
        assert (finished / name / "adapter.safetensors").is_file(), name
        assert torch.load(finished / name / "model.pt", weights_only=True), name


@finished_demo
def test_ssa_starts_from_the_pretraining_and_moves_output_projections_only(finished: Path) -> None:
    before, after = (torch.load(finished / name / "model.pt", weights_only=True) for name in ("pretrain", "ssa"))

    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".attn.out_proj." in name for name in changed)


@finished_demo
def test_the_report_says_what_it_must(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")

    assert "not a medical device" in page and "Template-derived data" in page
    assert page.count("data:image/png;base64,") == 7
    for name in STAGES:
        assert f"stages/{name}.yaml" in page
    for method in ("after SSA", "without SSA", "random start", "majority vote"):
        assert f'<th scope="row">{method}</th>' in page


@finished_demo
def test_the_printed_table_holds_the_dice_on_file(finished: Path, printed: io.StringIO) -> None:
    text = printed.getvalue()
    dice = read_dice(finished / "without_ssa" / "test" / "dice_raw.csv", ["gray matter", "white matter"])

    row = next(line for line in text.splitlines() if line.startswith("without SSA "))
    assert row.split()[2:4] == [f"{np.mean(cases):.3f}" for cases in dice.values()]
    assert text.rstrip().endswith(f"report: {finished / 'report.html'}")


@finished_demo
def test_dice_of_each_test_case_is_on_file(finished: Path) -> None:
    for name in STAGES[2:]:
        dice = read_dice(finished / name / "test" / "dice_raw.csv", ["gray matter", "white matter"])
        assert [len(cases) for cases in dice.values()] == [2, 2]


@finished_demo
def test_a_stage_is_repeated_by_its_command(finished: Path, tmp_path: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if "stages/ssa.yaml" in line)
    command = shlex.split(line)
    again = ["python", *command[1:-1], str(tmp_path / "again")]
    run_line(shlex.join(again), tmp_path)

    folders = (finished / "ssa", tmp_path / "again")
    first, second = (torch.load(folder / "model.pt", weights_only=True) for folder in folders)
    assert all(torch.equal(first[name], second[name]) for name in first)


@finished_demo
def test_a_finished_demo_is_left_alone(finished: Path) -> None:
    report = (finished / "report.html").read_bytes()

    with pytest.raises(FileExistsError, match="give --output a new folder, or delete this one"):
        run_demo(None, finished, 0, SIZE)

    assert (finished / "report.html").read_bytes() == report


@pytest.mark.full
@pytest.mark.slow  # a second demo; tests/demo/test_own_data.py has what differs before it, `finished` what comes after
def test_a_folder_of_ones_own_runs_the_same_way(hippocampus_tiny: Path, tmp_path: Path) -> None:
    assert run_demo(hippocampus_tiny, tmp_path / "demo", 0, replace(SIZE, img_size=(32, 32, 32))) == 0

    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "Dice, anterior" in page and "The volumes are your own" in page
    assert "Template-derived" not in page
    assert "hippocampus" not in page and str(hippocampus_tiny) not in page


def test_a_missing_package_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "find_spec", lambda name: None if name == "jinja2" else "found")

    with pytest.raises(ImportError, match=r'the demo needs jinja2: pip install "monai_essa\[demo\]"'):
        run_demo(None, tmp_path / "demo", 0, SIZE)

    assert not (tmp_path / "demo").exists()


def test_a_folder_that_is_no_data_set_leaves_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such datalist"):
        run_demo(tmp_path, tmp_path / "demo", 0, SIZE)
