# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The tables of evaluations are read as they were written, checked against each other and averaged by patient."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import write_metrics_reports

from monai_essa.evaluation.cases.classification import ClassificationReport
from monai_essa.evaluation.run_scores import BRIER, DICE, RunScores, joined_folds, read_run, site_scores

SEGMENTED = np.array([[0.5, 0.7], [math.nan, 0.9], [math.nan, math.nan]], dtype=np.float32)
CASES = [f"/scans/imagesTs/p{number}.nii.gz" for number in range(3)]
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]])


def segmented(folder: Path, dice: np.ndarray = SEGMENTED, cases: Sequence[str] = CASES) -> Path:
    """A finished run as evaluate.yaml leaves it: MONAI writes the table."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished"}), encoding="utf-8")
    write_metrics_reports(folder / "test", cases, None, {"dice": dice}, None)
    return folder


def classified(folder: Path, truth: Sequence[Sequence[int]], multi_label: bool = False) -> Path:
    """The same for classes, by our own handler."""
    names = {"none": 0, "left": 1, "left+right": 2}
    report = ClassificationReport(folder / "test", names, multi_label, resamples=2)
    items = [
        {
            "image": MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": case}),
            "pred": torch.tensor(probabilities),
            "label": torch.tensor(label),
        }
        for case, probabilities, label in zip(CASES, PROBABILITIES, truth, strict=False)
    ]
    engine = Engine(lambda engine, batch: items)
    report.attach(engine)
    engine.run([0])
    return folder


@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning", "ignore:2 patients:UserWarning")
@pytest.mark.parametrize("inner", ["", "test"])
def test_a_case_has_the_mean_dice_of_its_defined_classes(inner: str, tmp_path: Path) -> None:
    run = read_run(segmented(tmp_path / "run") / inner)
    assert (run.metric, list(run.scores)) == (DICE, CASES)
    assert list(run.scores.values()) == pytest.approx([0.6, 0.9, math.nan], nan_ok=True)
    assert list(run.truth.values()) == [("class0", "class1"), ("class1",), ()]


@pytest.mark.filterwarnings("ignore:2 patients:UserWarning")
@pytest.mark.parametrize(
    ("truth", "multi_label"), [([[0, 1, 0], [0, 0, 1]], False), ([[1, 1, 0], [0, 0, 0]], True)], ids=["one", "several"]
)
def test_an_image_has_the_brier_score(truth: list[list[int]], multi_label: bool, tmp_path: Path) -> None:
    run = read_run(classified(tmp_path / "run", truth, multi_label))
    assert run.metric == BRIER
    assert list(run.scores.values()) == pytest.approx(list(((PROBABILITIES - truth) ** 2).mean(axis=1)), abs=1e-6)


def table(folder: Path, text: str | bytes, name: str = "dice_raw.csv") -> Path:
    (folder / "run" / "test").mkdir(parents=True)
    (folder / "run" / "test" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "run"


def test_of_two_classes_the_brier_score_is_the_squared_error_of_a_probability(tmp_path: Path) -> None:
    run = read_run(table(tmp_path, "image,label,no,yes\na.png,yes,0.4,0.6\nb.png,no,nan,nan\n", "predictions.csv"))
    assert run.scores["a.png"] == pytest.approx(0.4**2)
    assert math.isnan(run.scores["b.png"])  # the prediction failed


def test_a_name_with_a_comma_is_read(tmp_path: Path) -> None:
    assert list(read_run(table(tmp_path, "filename,class0,mean\n/a,b/p1.nii,0.5,0.5\n")).scores.items()) == [
        ("/a,b/p1.nii", 0.5)
    ]


HEADER = "filename,class0,mean\n"


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "dice_raw.csv", "expected the header of an evaluation, got ''"),
        ("image,label,a\n", "dice_raw.csv", "expected the header of an evaluation, got 'image,label,a'"),
        ("a.png,0.4,0.6\n", "predictions.csv", "expected the header of an evaluation"),
        (HEADER, "dice_raw.csv", "expected a row for each case, got none"),
        (f"{HEADER}p1,0.5\n", "dice_raw.csv", "line 2: expected 3 columns, got 2"),
        (f"{HEADER}p1,0.5,0.5\np2,x,0.5\n", "dice_raw.csv", "line 3: expected a number, got 'x'"),
        (f"{HEADER}p1,1.5,0.5\n", "dice_raw.csv", "line 2: expected a number from 0 to 1, got 1.5"),
        (f"{HEADER}p1,inf,0.5\n", "dice_raw.csv", "line 2: expected a number from 0 to 1, got inf"),
        (f"{HEADER}p1,0.5,0.5\np1,0.5,0.5\n", "dice_raw.csv", "line 3: 'p1' comes twice"),
        (b"filename,class0,mean\n\xff\xfe,0.5,0.5\n", "dice_raw.csv", "expected a table with commas in UTF-8"),
        (f"{HEADER}{'x' * 200_000},0.5,0.5\n", "dice_raw.csv", "expected a table with commas in UTF-8"),
        ("image,label,a,b\np1,c,0.5,0.5\n", "predictions.csv", "line 2: expected a label among a, b, got 'c'"),
        ("image,label,a,b\np1,a,0.5\n", "predictions.csv", "line 2: expected 4 columns, got 3"),
        ("image,label,a,b\np1,a,0.5,-0.1\n", "predictions.csv", "expected a number from 0 to 1, got -0.1"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(text: str | bytes, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as raised:
        read_run(table(tmp_path, text, name))
    assert message in str(raised.value) and name in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"status": "finished", "seed": "1"}', "run.json, field 'seed': expected a whole number"),
        ('{"status": "running"}', "holds an unfinished run"),
        ("{", "run.json: expected"),
        ("[1]", "run.json: expected"),
    ],
)
@pytest.mark.parametrize("inner", ["", "test"])
def test_a_run_that_is_not_finished_is_refused(record: str, message: str, inner: str, tmp_path: Path) -> None:
    run = table(tmp_path, f"{HEADER}p1,0.5,0.5\n")
    (run / "run.json").write_text(record, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_run(run / inner)


def test_a_run_without_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a finished run that was scored with evaluate.yaml"):
        read_run(tmp_path)


def scored(values: dict[str, float], name: str = "run", metric: str = DICE, seed: int | None = None) -> RunScores:
    return RunScores(Path(name), metric, values, dict.fromkeys(values, ("class0",)), seed)


def test_a_patient_has_the_mean_of_the_cases_that_every_run_scored() -> None:
    one = scored({"/a/p1_L.nii": 0.2, "/a/p1_R.nii": 0.6, "/a/p2_L.nii": 0.5, "/a/p2_R.nii": 0.1, "/a/p3.nii": 0.7})
    two = scored(
        {"/a/p3.nii": math.nan, "/a/p2_L.nii": 0.4, "/a/p2_R.nii": math.nan, "/a/p1_R.nii": 1, "/a/p1_L.nii": 0}
    )
    site = site_scores({"one": [one], "two": [two]})
    assert [(arm.name, list(arm.patients)) for arm in site.arms] == [
        (name, ["p1", "p2", "p3"]) for name in ("one", "two")
    ]
    np.testing.assert_allclose(site.arms[0].scores, [[0.4, 0.5, math.nan]])
    np.testing.assert_allclose(site.arms[1].scores, [[0.5, 0.4, math.nan]])
    assert (site.cases, site.undefined, site.unit) == (5, 2, "patient, guessed from the names of the files")


def test_repeats_are_the_rows_of_their_arm() -> None:
    runs = [scored({"p1": value, "p2": 0.5}, f"run{value}") for value in (0.1, 0.2, 0.3, 0.4)]
    site = site_scores({"with": runs[:2], "without": runs[2:]})
    np.testing.assert_allclose(site.arms[0].scores, [[0.1, 0.5], [0.2, 0.5]])
    np.testing.assert_allclose(site.arms[1].scores, [[0.3, 0.5], [0.4, 0.5]])
    assert site.unit.startswith("case, since each file has a name of its own")


def test_patients_of_the_data_list_come_first() -> None:
    run = scored({"/a/x.nii": 0.2, "/a/y.nii": 0.4})
    site = site_scores({"one": [run]}, {"/a/x.nii": "ann", "/a/y.nii": "ann", "/a/z.nii": "bob"})
    assert (list(site.arms[0].patients), site.unit) == (["ann"], "patient, as the data list names it")
    mixed = site_scores({"one": [run]}, {"/a/x.nii": "ann"})
    assert list(mixed.arms[0].patients) == ["ann", "y"] and mixed.unit.endswith("where the data list names none")
    with pytest.raises(ValueError, match="names no patient of the cases"):
        site_scores({"one": [run]}, {"/b/x.nii": "ann"})


def test_data_that_moved_between_two_runs_is_the_same_data() -> None:
    one = scored({"/old/disk/p1/t1.nii": 0.2, "/old/disk/p2/t1.nii": 0.4})
    two = scored({"/new/p2/t1.nii": 0.5, "/new/p1/t1.nii": 0.3})
    site = site_scores({"one": [one], "two": [two]})
    assert list(site.arms[1].patients) == ["p1", "p2"]
    np.testing.assert_allclose(site.arms[1].scores, [[0.3, 0.5]])


def test_classes_are_better_with_a_lower_score() -> None:
    assert not site_scores({"one": [scored({"p1": 0.2}, metric=BRIER)]}).arms[0].higher_is_better
    assert site_scores({"one": [scored({"p1": 0.2})]}).arms[0].higher_is_better


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (scored({"p1": 0.5, "p3": 0.5, "p4": 0.5}, "b"), r"b has no score of 'p2' \(patient 'p2'\), which a has"),
        (scored({"p1": 0.5, "p2": 0.5, "p3": 0.5}, "b"), r"a has no score of 'p3' \(patient 'p3'\), which b has"),
        (scored({"p1": 0.5, "p2": 0.5}, "b", BRIER), "a has the mean Dice .*, b the Brier score"),
        (
            RunScores(Path("b"), DICE, {"p1": 0.5, "p2": 0.5}, {"p1": ("class0",), "p2": ()}),
            "b scored 'p2' with another label than a: 'none of the classes', not 'class0'",
        ),
    ],
)
@pytest.mark.parametrize("repeat", [True, False])
def test_runs_that_do_not_compare_are_refused(other: RunScores, message: str, repeat: bool) -> None:
    one = scored({"p1": 0.4, "p2": 0.6}, "a")
    with pytest.raises(ValueError, match=message):
        site_scores({"one": [one, other]} if repeat else {"one": [one], "two": [other]})


def test_arms_with_other_numbers_of_repeats_are_refused() -> None:
    runs = [scored({"p1": value}) for value in (0.1, 0.2, 0.3)]
    with pytest.raises(ValueError, match="as many repeats of each arm, got with 2, without 1"):
        site_scores({"with": runs[:2], "without": runs[2:]})
    with pytest.raises(ValueError, match="at least one run"):
        site_scores({})


def test_a_copy_is_no_repeat() -> None:
    values = {"p1": 0.4, "p2": math.nan, "p3": 0.6}
    with pytest.raises(ValueError, match=r"c and a have the same scores; the repeats of 'with' must be trainings"):
        site_scores({"with": [scored(values, "a"), scored({**values, "p1": 0.3}, "b"), scored(values, "c")]})
    constant = [scored(dict.fromkeys(values, 0.0), name) for name in ("a", "b")]  # nothing was learnt, twice
    assert len(site_scores({"with": constant}).arms[0].scores) == 2


def test_folds_are_one_repeat() -> None:
    """Two seeds with two folds each, in an order of their own for each arm."""
    values = {1: {"p1": 0.1, "p2": 0.2}, 2: {"p1": 0.3, "p2": 0.4}}
    folds = [scored({case: values[seed][case]}, f"{seed}{case}", seed=seed) for seed in (1, 2) for case in ("p1", "p2")]
    turned = [folds[place] for place in (3, 1, 2, 0)]
    site = site_scores({"one": folds, "two": turned})
    for arm in site.arms:
        np.testing.assert_allclose(arm.scores, [[0.1, 0.2], [0.3, 0.4]])


def test_the_same_seeds_pair_repeats_and_other_seeds_keep_their_order() -> None:
    one = [scored({"p1": 0.1 * seed, "p2": 0.0}, f"a{seed}", seed=seed) for seed in (1, 2, 3)]
    two = [scored({"p1": 0.1 * seed, "p2": 0.5}, f"b{seed}", seed=seed) for seed in (3, 1, 2)]
    site = site_scores({"one": one, "two": two})
    np.testing.assert_allclose(site.arms[0].scores[:, 0], site.arms[1].scores[:, 0])
    other = [scored({"p1": 0.1 * seed, "p2": 0.5}, f"b{seed}", seed=seed + 7) for seed in (3, 1, 2)]
    np.testing.assert_allclose(site_scores({"one": one, "two": other}).arms[1].scores[:, 0], [0.3, 0.1, 0.2])
    mixed = [scored({"p1": 0.1 * seed, "p2": 0.5}, f"b{seed}", seed=seed + 1) for seed in (3, 1, 2)]
    with pytest.raises(ValueError, match="'two' has no run of seed 1, which 'one' has; train both with the same seeds"):
        site_scores({"one": one, "two": mixed})


def test_a_patient_in_two_folds_is_refused() -> None:
    first, second = (scored({f"/a/x{number}.nii": 0.5}, f"f{number}", seed=1) for number in (1, 2))
    assert set(joined_folds([first, second]).scores) == {"/a/x1.nii", "/a/x2.nii"}
    with pytest.raises(ValueError, match="f1 and f2 both tested 'patient ann'; expected folds of one repeat"):
        joined_folds([first, second], {"/a/x1.nii": "ann", "/a/x2.nii": "ann"})
    third = scored({"/a/x1.nii": 0.4, "/a/x2.nii": 0.5}, "f3", seed=1)
    with pytest.raises(ValueError, match="f1 and f3 both tested '/a/x1.nii'"):
        site_scores({"one": [first, third]})
    with pytest.raises(ValueError, match="f1 has the mean Dice .*, f4 the Brier score"):
        joined_folds([first, scored({"/a/x3.nii": 0.4}, "f4", BRIER)])


def test_a_fold_that_is_missing_is_named() -> None:
    folds = [scored({case: 0.5 + place / 10}, case, seed=1) for place, case in enumerate(("p1", "p2", "p3"))]
    with pytest.raises(ValueError, match="has no score of 'p3'"):
        site_scores({"one": folds, "two": folds[:2]})


def test_the_same_scores_under_another_seed_are_no_copy() -> None:
    values = {"p1": 0.4, "p2": 0.6}
    site = site_scores({"ridge": [scored(values, name, seed=seed) for seed, name in enumerate("ab")]})
    assert len(site.arms[0].scores) == 2
    with pytest.raises(ValueError, match="have the same scores"):
        site_scores({"ridge": [scored(values, name, seed=1) for name in "ab"]})


def test_one_run_of_a_rival_stands_for_each_repeat() -> None:
    runs = [scored({"p1": value, "p2": 0.5}, f"run{value}") for value in (0.1, 0.2, 0.3)]
    site = site_scores({"ours": runs}, rivals={"theirs": [scored({"p2": 0.4, "p1": 0.6}, "masks")]})
    assert [arm.name for arm in site.arms] == ["ours", "theirs"]
    np.testing.assert_allclose(site.arms[1].scores, [[0.6, 0.4]] * 3)
    with pytest.raises(ValueError, match="masks has no score of 'p1'"):
        site_scores({"ours": runs}, rivals={"theirs": [scored({"p2": 0.4}, "masks")]})
    with pytest.raises(ValueError, match="as many repeats of each arm, got ours 3, theirs 2"):
        site_scores({"ours": runs}, rivals={"theirs": runs[:2]})
