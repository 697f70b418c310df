# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The command `compare`: finished runs in, a table and a sentence for each comparison out, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_essa.cli.compare_command import arm_folders
from monai_essa.data.lists.fold_files import write_fold_file
from tests.cli.conftest import Monai

PATIENTS = 10
Runs = Callable[..., Path]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Makes runs of a procedure with five repeats, whose mean Dice is planted; the folder is the current one."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, mean: float, repeats: int = 5, patients: int = PATIENTS) -> Path:
        patient = 0.05 * np.random.default_rng(0).normal(size=patients)
        rng = np.random.default_rng(10 * len(name))
        for repeat in range(repeats):
            values = mean + patient + 0.01 * rng.normal() + 0.01 * rng.normal(size=patients)
            test = Path("runs") / f"{name}_{repeat}" / "test"
            test.mkdir(parents=True)
            (test.parent / "run.json").write_text('{"status": "finished"}', encoding="utf-8")
            rows = [f"/scans/p{number}.nii.gz,{value:.6f},{value:.6f}" for number, value in enumerate(values)]
            (test / "dice_raw.csv").write_text("\n".join(["filename,class0,mean", *rows, ""]), encoding="utf-8")
        return Path("runs")

    return make


def test_the_command_tells_which_procedure_is_better(runs: Runs, monai_essa: Monai) -> None:
    runs("ssa", 0.8), runs("plain", 0.7), runs("nothing", 0.5)
    arms = ("with=runs/ssa_*", "without=runs/plain_*", "none=runs/nothing_*")
    done = monai_essa("compare", *arms, "--out", "verdict.json")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "mean Dice over the defined classes (higher is better)"
    assert [line.split()[0] for line in lines[3:6]] == ["with", "without", "none"]
    assert lines[7].startswith("with is superior to without: ahead by 0.") and "97.5 % interval" in lines[7]
    assert lines[8].startswith("with is superior to none: ahead by 0.")
    assert lines[9:] == [
        "10 cases of 10 patients; all have a score in every run",
        "unit: the case, since each file has a name of its own and no data list names patients",
        "wrote verdict.json",
    ]
    text = Path("verdict.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert [(each["a"], each["b"], each["word"]) for each in record["comparisons"]] == [
        ("with", "without", "superior"),
        ("with", "none", "superior"),
    ]
    assert (record["protocol"]["margin"], record["protocol"]["repeats"], record["protocol"]["cases"]) == (0.02, 5, 10)
    assert "runs" not in text and "scans" not in text and "p3" not in text

    again = monai_essa("compare", *arms, "--out", "again.json")
    assert again.code == 0 and Path("again.json").read_text(encoding="utf-8") == text


def test_two_single_runs_are_provisional(runs: Runs, monai_essa: Monai) -> None:
    runs("ssa", 0.8, repeats=1), runs("plain", 0.7, repeats=1)
    done = monai_essa("compare", "runs/ssa_0", "runs/plain_0")
    assert done.code == 0
    assert "ssa_0 against plain_0: no verdict (provisional: 1 repeat of the training" in done.out


def test_the_margin_decides_what_is_non_inferior(runs: Runs, monai_essa: Monai) -> None:
    runs("ssa", 0.7), runs("plain", 0.7)
    arms = ("with=runs/ssa_*", "without=runs/plain_*")
    assert (
        "with is non-inferior to without within the margin of 0.1:" in monai_essa("compare", *arms, "--margin", 0.1).out
    )
    assert "with against without is not decided:" in monai_essa("compare", *arms, "--margin", 0).out


def test_cases_without_a_score_are_counted(runs: Runs, monai_essa: Monai) -> None:
    runs("ssa", 0.8), runs("plain", 0.7)
    for table in Path("runs").glob("*/test/dice_raw.csv"):
        text = table.read_text(encoding="utf-8")
        row = next(line for line in text.splitlines() if "p4." in line)
        table.write_text(text.replace(row, "/scans/p4.nii.gz,nan,nan"), encoding="utf-8")
    out = monai_essa("compare", "with=runs/ssa_*", "without=runs/plain_*").out
    assert "10 cases of 10 patients; left out, for want of a score in some run: 1 case, 1 patient" in out
    assert "superior" in out


def test_the_data_list_names_the_patients(runs: Runs, monai_essa: Monai) -> None:
    runs("ssa", 0.8), runs("plain", 0.7)
    items = [{"image": f"/scans/p{number}.nii.gz", "patient": f"ward {number // 5}"} for number in range(PATIENTS)]
    Path("list.json").write_text(json.dumps({"training": items[:1], "testing": items[1:]}), encoding="utf-8")
    done = monai_essa("compare", "a=runs/ssa_*", "b=runs/plain_*", "--datalist", "list.json")
    assert "10 cases of 2 patients" in done.out and "unit: the patient, as the data list names it" in done.out
    assert "no verdict (2 patients with scores in both, and a verdict needs 6)" in done.out
    for item in items:
        del item["patient"]
    Path("list.json").write_text(json.dumps({"testing": items}), encoding="utf-8")
    done = monai_essa("compare", "a=runs/ssa_*", "b=runs/plain_*", "--datalist", "list.json")
    assert (done.code, done.out) == (1, "") and "list.json: no image has a 'patient'" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["with=runs/ssa_*"], "with: expected at least two procedures"),
        (["with=runs/ssa_*", "with=runs/plain_*"], "two procedures are called 'with'"),
        (["with=runs/ssa_*", "without=runs/gone_*"], "runs/gone_*: no folder matches"),
        (["runs/ssa_0", "runs/gone"], "runs/gone: no test/dice_raw.csv or test/predictions.csv"),
        (
            ["with=runs/ssa_*", "without=runs/plain_0,runs/plain_1"],
            "as many repeats of each arm, got with 5, without 2",
        ),
        (["runs/ssa_0,runs/ssa_0", "runs/plain_0"], "ssa_0: a folder comes twice"),
        (["runs/ssa_0,", "runs/plain_0"], "expected a folder on each side of a comma"),
        (["$a=runs/ssa_0", "runs/plain_0"], "the name of $a=runs/ssa_0: expected text"),
        (["runs/ssa_0", "runs/plain_0", "--margin", "-1"], "margin: expected a number of at least 0, got -1.0"),
        (["runs/ssa_0", "runs/plain_0", "--margin", "nan"], "margin: expected a number of at least 0, got nan"),
        (["runs/ssa_0", "runs/plain_0", "--out", "runs"], "runs exists; expected a new file"),
        (["runs/ssa_0", "runs/plain_0", "--datalist", "gone.json"], "gone.json: no such datalist"),
        (["runs/ssa_0", "runs/few_0"], "runs/few_0/test has no score of 'p9.nii.gz' (patient 'p9')"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: list[str], message: str, runs: Runs, monai_essa: Monai) -> None:
    runs("ssa", 0.8), runs("plain", 0.7), runs("few", 0.7, patients=PATIENTS - 1)
    done = monai_essa("compare", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert message in done.err.replace("\\", "/")


def test_folders_may_have_the_characters_of_the_syntax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lr=1", "a,b", "c[1]", "d1", "d2", "run/test"):
        Path(name).mkdir(parents=True)
    Path("d3").touch()
    found = arm_folders(["x=lr=1", "y=a,b", "c=c[1]", "d=d?", "run/test"])
    assert {name: [folder.as_posix() for folder in folders] for name, folders in found.items()} == {
        "x": ["lr=1"],
        "y": ["a,b"],
        "c": ["c[1]"],
        "d": ["d1", "d2"],
        "run": ["run/test"],
    }


@pytest.fixture
def masks(runs: Runs) -> Path:
    """A site whose label maps another tool predicted without an error, and runs of ours that are worse."""
    items = []
    for number in range(PATIENTS):
        voxels = np.zeros((4, 4, 4), dtype=np.uint8)
        voxels[: 1 + number % 3] = 1
        for folder in ("labels", "masks"):
            Path(folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), f"{folder}/p{number}.nii.gz")
        items.append({"image": f"/scans/p{number}.nii.gz", "label": f"labels/p{number}.nii.gz"})
    sections = {"repeat_1": {"fold_1": {"training": [{"image": "/scans/t.nii.gz"}], "test": items}}}
    Path("list.json").write_text(json.dumps(sections), encoding="utf-8")
    runs("ssa", 0.8)
    return Path("masks")


def test_masks_of_another_tool_are_one_more_arm(masks: Path, monai_essa: Monai) -> None:
    arguments = ("with=runs/ssa_*", "--rival", f"nnunet={masks}", "--datalist", "list.json", "--out", "verdict.json")
    done = monai_essa("compare", *arguments)
    assert (done.code, done.err) == (0, "")
    assert "nnunet (not blinded)  1.0000" in done.out and "with is inferior to nnunet: behind by 0." in done.out
    arms = json.loads(Path("verdict.json").read_text(encoding="utf-8"))["arms"]
    assert [(arm.get("kind"), arm.get("blinded")) for arm in arms] == [(None, None), ("rival", False)]


def test_a_tool_that_had_the_splits_is_blinded(masks: Path, monai_essa: Monai) -> None:
    write_fold_file(json.loads(Path("list.json").read_text(encoding="utf-8")), masks, "nnunet")
    done = monai_essa("compare", "with=runs/ssa_*", "--rival", f"nnunet={masks}", "--datalist", "list.json")
    assert done.code == 0 and "nnunet" in done.out and "not blinded" not in done.out


@pytest.mark.parametrize(
    ("rival", "message"),
    [
        (["--rival", "nnunet=masks"], "--rival masks: expected --datalist FILE too"),
        (["--rival", "masks", "--datalist", "list.json"], "--rival masks: expected NAME=PATH"),
        (["--rival", "with=masks", "--datalist", "list.json"], "a procedure and a rival are both called 'with'"),
        (["--rival", "$x=masks", "--datalist", "list.json"], "the name of --rival $x=masks: expected text"),
        (["--rival", "other=none", "--datalist", "list.json"], "none: no such folder"),
    ],
)
def test_a_rival_that_does_not_fit_is_refused_in_one_line(
    rival: list[str], message: str, masks: Path, monai_essa: Monai
) -> None:
    done = monai_essa("compare", "with=runs/ssa_*", *rival)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1) and message in done.err


def test_probabilities_of_another_tool_are_one_more_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monai_essa: Monai
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    header = "image,label,no,yes"
    for repeat in range(3):
        test = Path(f"runs/ssa_{repeat}/test")
        test.mkdir(parents=True)
        chances = 0.4 + 0.3 * rng.random(PATIENTS)
        rows = [f"/scans/p{number}.png,yes,{1 - p:.6f},{p:.6f}" for number, p in enumerate(chances)]
        (test / "predictions.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    rows = [f"p{number}.png,0.05,0.95" for number in range(PATIENTS)]
    Path("theirs.csv").write_text("\n".join(["image,no,yes", *rows, ""]), encoding="utf-8")
    done = monai_essa("compare", "ours=runs/ssa_*", "--rival", "theirs=theirs.csv")
    assert (done.code, done.err) == (0, "") and "ours is inferior to theirs" in done.out


def test_folds_of_one_seed_are_one_repeat(runs: Runs, monai_essa: Monai) -> None:
    runs("ssa", 0.8), runs("plain", 0.7)
    for run in sorted(Path("runs").iterdir()):
        seed = int(run.name[-1])
        lines = (run / "test" / "dice_raw.csv").read_text(encoding="utf-8").splitlines()
        for fold in (0, 1):
            part = Path("folds") / f"{run.name}{fold}" / "test"
            part.mkdir(parents=True)
            (part.parent / "run.json").write_text(f'{{"status": "finished", "seed": {seed}}}', encoding="utf-8")
            (part / "dice_raw.csv").write_text("\n".join([lines[0], *lines[1 + fold :: 2], ""]), encoding="utf-8")
    whole = monai_essa("compare", "with=runs/ssa_*", "without=runs/plain_*").out
    assert monai_essa("compare", "with=folds/ssa_*", "without=folds/plain_*").out == whole


@pytest.mark.parametrize(("of_class", "compared"), [(50, True), (20, False)])
def test_the_auc_of_a_large_test_set_is_described(
    of_class: int, compared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monai_essa: Monai
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for arm, repeat in ((arm, repeat) for arm in ("ssa", "plain") for repeat in range(3)):
        test = Path(f"runs/{arm}_{repeat}/test")
        test.mkdir(parents=True)
        labels = np.repeat([0, 1], of_class)
        chances = np.clip(0.5 + 0.2 * (labels - 0.5) + 0.1 * rng.normal(size=len(labels)), 0, 1)
        table = enumerate(zip(labels, chances, strict=True))
        rows = [f"/s/p{number}.png,{('no', 'yes')[label]},{1 - p:.6f},{p:.6f}" for number, (label, p) in table]
        (test / "predictions.csv").write_text("\n".join(["image,label,no,yes", *rows, ""]), encoding="utf-8")
    done = monai_essa("compare", "with=runs/ssa_*", "without=runs/plain_*", "--out", "verdict.json")
    assert (done.code, done.err) == (0, "")
    assert ("with against without, for description, in AUC: " in done.out) is compared
    comparisons = json.loads(Path("verdict.json").read_text(encoding="utf-8"))["comparisons"]
    assert [each["metric"] for each in comparisons] == ["", "AUC"][: 1 + compared]
