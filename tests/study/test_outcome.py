# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A verdict follows from the plan and the tables of the tests alone, and says "helps" only where the controls agree."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

from monai_essa.evaluation.run_scores import read_run, site_scores
from monai_essa.evaluation.verdict import compare_arms
from monai_essa.study.outcome import study_verdict, write_verdict
from tests.docs.shown_commands import ROOT

PATIENTS = 20
TITLES = {
    "ssa": "SSA, then PEFT",
    "no_ssa": "PEFT",
    "full": "full fine-tuning",
    "no_ssa_longer": "PEFT, with SSA's time too",
    "ssa_third": "SSA, a third",
    "no_ssa_third": "PEFT, a third",
    "scratch": "from scratch",
    "floor_atlas": "atlas vote",
}
GOOD = {"ssa": 0.8, "no_ssa": 0.7, "full": 0.71, "no_ssa_longer": 0.72, "ssa_third": 0.76, "no_ssa_third": 0.7}
Study = Callable[..., Path]


def protocol(**changes: Any) -> dict[str, Any]:
    return {
        "task": "segmentation",
        "design": "fixed",
        "repeats": 5,
        "folds": 1,
        "labels": 12,
        "patients": PATIENTS,
        "margin": 0.02,
        "metric": "mean Dice over the defined classes",
        "primaries": [["ssa", "no_ssa", "superiority"], ["no_ssa", "full", "non-inferiority"]],
        "rate_check": "thirds",
        "provisional": None,
        "transductive": False,
        "base": "given weights",
    } | changes


def write_table(run: Path, cases: Sequence[str], values: Sequence[float], seed: int) -> None:
    (run / "test").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"status": "finished", "seed": seed}), encoding="utf-8")
    rows = [f"/scans/{case}.nii.gz,{value:.6f},{value:.6f}" for case, value in zip(cases, values, strict=True)]
    (run / "test" / "dice_raw.csv").write_text("\n".join(["filename,class0,mean", *rows, ""]), encoding="utf-8")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Writes the folder of a study whose arms have planted means: plan, stages that ended, tables."""

    def make(
        means: Mapping[str, float] = GOOD,
        folder: str = "study",
        further: Mapping[int, Mapping[str, float]] | None = None,
        **changes: Any,
    ) -> Path:
        there = protocol(**changes)
        place = tmp_path / folder
        (place / "stages").mkdir(parents=True)
        cases = [f"p{number:02}" for number in range(there["patients"])]
        patient = 0.05 * np.random.default_rng(0).normal(size=len(cases))
        stages: list[dict[str, Any]] = []
        trained = [(arm, mean, None) for arm, mean in means.items()]
        trained += [(arm, mean, labels) for labels, of in (further or {}).items() for arm, mean in of.items()]
        there |= {"further_labels": list(further)} if further else {}
        for arm_number, (arm, mean, labels) in enumerate(trained):
            rng = np.random.default_rng(arm_number)
            for repeat in range(1, there["repeats"] + 1):
                values = mean + patient + 0.01 * rng.normal(size=len(cases)) + 0.003 * rng.normal()
                for fold in range(1, there["folds"] + 1):
                    name = f"{len(stages):02}-r{repeat}f{fold}-{arm}"
                    kind = "floor" if arm.startswith("floor") else "test"
                    stages.append(
                        {"name": name, "kind": kind, "arm": arm, "repeat": repeat, "fold": fold, "run": name}
                        | {"needs": [], "seconds": 1.0, "labels": labels}
                    )
                    tested = slice(fold - 1, None, there["folds"])
                    write_table(place / "runs" / name, cases[tested], values[tested], seed=repeat)
                    (place / "stages" / f"{name}.done").write_text('{"seconds": 1.0}', encoding="utf-8")
        kinds = {arm: "floor" if arm.startswith("floor") else "trained" for arm in means}
        arms = [{"name": arm, "title": TITLES[arm], "kind": kinds[arm]} for arm in means]
        plan = {
            "version": 1,
            "request": {},
            "protocol": there,
            "arms": arms,
            "dropped": [],
            "stages": stages,
            "images": {},
        }
        (place / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
        return place

    return make


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "plan.yaml"
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(plan)
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")


def test_ssa_helps_where_it_is_superior_and_no_control_speaks_against_it(study: Study) -> None:
    verdict = study_verdict(study())
    assert verdict.helps is True
    words = {(each.a, each.b): (each.question, each.word) for each in verdict.comparisons}
    assert words[("ssa", "no_ssa")] == ("superiority", "superior")
    assert words[("ssa", "no_ssa_longer")] == words[("ssa_third", "no_ssa_third")] == ("description", "")
    assert {each.level for each in verdict.comparisons if each.word} == {0.975}
    assert verdict.sentence.startswith('SSA helps here: "SSA, then PEFT" is superior to "PEFT": ahead by 0.1')
    said = (
        r"""The controls agree: it is ahead by 0\.\d+ against "PEFT, with SSA's time too" and by 0\.\d+ at a third of"""
    )
    assert re.search(said, verdict.sentence)


@pytest.mark.parametrize(
    ("changed", "helps", "said"),
    [
        ({"no_ssa_longer": 0.85}, False, "SSA is not shown to help: its time does as much without it"),
        ({"ssa_third": 0.65}, False, "at a third of the learning rates it is behind by 0.0"),
        ({"ssa": 0.7}, None, "Whether SSA helps here is not decided"),
        ({"ssa": 0.6}, False, "SSA makes it worse here"),
    ],
)
def test_ssa_does_not_help_where_a_control_says_so(
    changed: dict[str, float], helps: bool | None, said: str, study: Study
) -> None:
    verdict = study_verdict(study({**GOOD, **changed}))
    assert verdict.helps is helps
    assert said in verdict.sentence and "SSA helps here:" not in verdict.sentence


@pytest.mark.parametrize("missing", ["no_ssa_longer", "ssa_third"])
def test_without_a_control_nobody_can_tell(missing: str, study: Study) -> None:
    verdict = study_verdict(study({arm: mean for arm, mean in GOOD.items() if arm != missing}))
    assert verdict.helps is None and "cannot be told" in verdict.sentence
    assert verdict.comparisons[0].word == "superior"


def test_without_a_check_of_the_rates_the_other_control_decides(study: Study) -> None:
    means = {arm: mean for arm, mean in GOOD.items() if "third" not in arm}
    verdict = study_verdict(study(means, rate_check="none"))
    assert verdict.helps is True and "third" not in verdict.sentence


def test_folds_are_joined_and_every_patient_counts_once(study: Study) -> None:
    whole, parted = study_verdict(study()), study_verdict(study(folder="folds", folds=5, design="folds"))
    assert [each.estimate for each in parted.comparisons] == pytest.approx(
        [each.estimate for each in whole.comparisons]
    )
    assert [row["n"] for row in parted.arms] == [PATIENTS] * len(GOOD)


def test_compare_and_a_plain_computation_confirm_the_numbers(study: Study) -> None:
    folder = study(folds=5, design="folds")
    main = study_verdict(folder).comparisons[0]
    arms = {arm: sorted((folder / "runs").glob(f"*-{arm}")) for arm in ("ssa", "no_ssa")}
    site = site_scores({arm: [read_run(run) for run in runs] for arm, runs in arms.items()})
    compared = compare_arms(*site.arms, comparisons=2)
    assert (compared.estimate, compared.low, compared.high) == pytest.approx((main.estimate, main.low, main.high))
    values: dict[str, list[float]] = {}
    for arm, runs in arms.items():
        tables = [(run / "test" / "dice_raw.csv").read_text(encoding="utf-8").splitlines()[1:] for run in runs]
        values[arm] = [float(row.split(",")[1]) for table in tables for row in table]
    assert main.estimate == pytest.approx(np.mean(values["ssa"]) - np.mean(values["no_ssa"]), abs=1e-9)


def test_an_arm_that_failed_is_left_out_and_named(study: Study) -> None:
    folder = study()
    (folder / "stages" / "12-r3f1-full.done").unlink()
    (folder / "stages" / "12-r3f1-full.failed").write_text("out of memory in /home/ann", encoding="utf-8")
    (folder / "stages" / "24-r5f1-ssa_third.done").unlink()
    edit(folder, lambda plan: plan.update(dropped=[{"name": "scratch", "reason": "3.2 hours"}]))
    verdict = study_verdict(folder)
    assert verdict.left_out == {
        "scratch": "dropped before the first stage",
        "full": "stage 12-r3f1-full failed",
        "ssa_third": "repeat 5, fold 1 is not tested",
    }
    assert "full" not in {row["name"] for row in verdict.arms} and verdict.helps is None
    assert {each.level for each in verdict.comparisons if each.word} == {0.975}, "planned comparisons count"
    assert '"full fine-tuning" (stage 12-r3f1-full failed)' in verdict.sentence
    text = json.dumps(verdict.as_dict())
    assert "/home" not in text and "3.2" not in text


def test_five_patients_have_no_word(study: Study) -> None:
    verdict = study_verdict(study(patients=5))
    assert verdict.helps is None and not any(each.word for each in verdict.comparisons)
    assert "No verdict on SSA" in verdict.sentence and "a verdict needs 6" in verdict.sentence


def test_a_provisional_study_says_so(study: Study) -> None:
    verdict = study_verdict(study(repeats=1, provisional="a preset with one repeat"))
    assert verdict.helps is None and not any(each.word for each in verdict.comparisons)
    assert "provisional: a preset with one repeat" in verdict.sentence
    assert verdict.exported is not None


@pytest.mark.parametrize(
    ("base", "name"), [("given weights", "no_ssa"), ("made here, SSA on the same scans", "scratch")]
)
def test_under_ten_labels_the_arm_is_fixed_in_advance(base: str, name: str, study: Study) -> None:
    means = {**GOOD, "scratch": 0.5}
    verdict = study_verdict(study(means, labels=9, base=base))
    assert verdict.exported is not None and verdict.exported["name"] == name
    assert verdict.exported["mean"] == verdict.exported["uncorrected"]
    assert "it was fixed before the scores were seen" in verdict.sentence
    assert study_verdict(study(means, folder="ten", labels=10, base=base)).exported["name"] == "ssa"  # type: ignore[index]


def test_a_floor_and_a_check_are_never_exported(study: Study) -> None:
    verdict = study_verdict(study({**GOOD, "ssa_third": 0.84, "floor_atlas": 0.85}))
    assert verdict.exported is not None and verdict.exported["name"] == "ssa"
    assert [(row["name"], row["title"], row["kind"]) for row in verdict.arms][-1] == (
        "floor_atlas",
        "atlas vote",
        "floor",
    )
    assert verdict.exported["mean"] < verdict.exported["uncorrected"] + 0.01


@pytest.mark.parametrize(("floor", "warned"), [(0.85, True), (0.6, False)])
def test_a_floor_that_is_ahead_of_what_is_exported_is_a_caution(floor: float, warned: bool, study: Study) -> None:
    sentence = study_verdict(study({**GOOD, "floor_atlas": floor})).sentence
    assert ('Caution: "atlas vote", which trains no network, has a better mean (0.8' in sentence) is warned


def test_a_simpler_arm_that_is_shown_non_inferior_is_exported(study: Study) -> None:
    verdict = study_verdict(study({"ssa": 0.7, "no_ssa": 0.7, "full": 0.7}, margin=0.05))
    assert verdict.exported is not None and verdict.exported["name"] == "no_ssa"


def test_the_same_study_writes_the_same_bytes_and_names_nobody(study: Study) -> None:
    folder = study()
    first = write_verdict(folder).read_bytes()
    assert write_verdict(folder).read_bytes() == first
    record = json.loads(first)
    assert list(record)[:5] == ["version", "protocol", "arms", "comparisons", "exported"]
    assert record["protocol"]["primaries"] == [["ssa", "no_ssa", "superiority"], ["no_ssa", "full", "non-inferiority"]]
    text = first.decode()
    assert "p07" not in text and "scans/" not in text and str(folder) not in text and "seconds" not in text


SCHEMA = json.loads(
    re.search("```json\n(.*?)```", (ROOT / "docs/reference/verdict.md").read_text(encoding="utf-8"), re.DOTALL)[1]  # type: ignore[index]
)


@pytest.mark.parametrize("changes", [{}, {"patients": 4}, {"repeats": 1, "provisional": "a preset"}, {"labels": 3}])
def test_the_record_is_as_the_page_says(changes: dict[str, Any], study: Study) -> None:
    jsonschema.validate(json.loads(write_verdict(study(**changes)).read_text(encoding="utf-8")), SCHEMA)
    empty = study(folder="empty")
    for done in (empty / "stages").glob("*.done"):
        done.unlink()
    jsonschema.validate(study_verdict(empty).as_dict(), SCHEMA)


def test_before_the_first_test_there_is_the_protocol_alone(study: Study) -> None:
    folder = study()
    for done in (folder / "stages").glob("*.done"):
        done.unlink()
    record = json.loads(write_verdict(folder).read_text(encoding="utf-8"))
    assert (record["arms"], record["comparisons"], record["exported"], record["helps"]) == ([], [], None, None)
    assert record["protocol"] == protocol() and record["sentence"].startswith("Nothing is tested yet")


def test_where_ssa_itself_failed_the_sentence_begins_with_it_and_names_the_stage(study: Study) -> None:
    folder = study({"ssa": 0.8, "no_ssa": 0.7})

    def needs_ssa(plan: dict[str, Any]) -> None:
        trained = next(stage for stage in plan["stages"] if stage["arm"] == "ssa")
        trained["needs"] = ["00-r1f1-pretext"]
        plan["stages"].insert(0, {**trained, "name": "00-r1f1-pretext", "kind": "ssa", "arm": None, "needs": []})

    edit(folder, needs_ssa)
    (folder / "stages" / "00-r1f1-pretext.failed").write_text("uniform targets", encoding="utf-8")
    done = folder / "stages" / "00-r1f1-ssa.done"
    done.rename(done.with_suffix(".failed"))
    verdict = study_verdict(folder)
    assert verdict.helps is None
    assert verdict.sentence.startswith("Whether SSA helps here is unknown, since stage 00-r1f1-pretext failed: ")


def test_where_every_arm_failed_the_sentence_says_so(study: Study) -> None:
    folder = study({"ssa": 0.8, "no_ssa": 0.7})
    for marker in (folder / "stages").glob("*-r1f1-*.done"):
        marker.rename(marker.with_suffix(".failed"))
    verdict = study_verdict(folder)
    assert verdict.sentence.startswith("There is no verdict, since no arm was tested in every repeat.")
    assert (
        'Left out: "SSA, then PEFT" (stage 00-r1f1-ssa failed); "PEFT" (stage 05-r1f1-no_ssa failed).'
        in verdict.sentence
    )


def test_a_single_arm_is_shown_without_a_comparison(study: Study) -> None:
    verdict = study_verdict(study({"no_ssa": 0.7}, primaries=[]))
    assert [row["name"] for row in verdict.arms] == ["no_ssa"] and not verdict.comparisons
    assert verdict.exported is not None and verdict.helps is None


def test_the_data_list_names_the_patients(study: Study) -> None:
    folder = study()
    items = [{"image": f"/scans/p{number:02}.nii.gz", "patient": f"ward {number // 2}"} for number in range(PATIENTS)]
    sections = {"repeat_1": {"fold_1": {"test": items, "training": [], "unlabeled": []}}}
    (folder / "datalist.json").write_text(json.dumps(sections), encoding="utf-8")
    verdict = study_verdict(folder)
    assert {row["n"] for row in verdict.arms} == {PATIENTS // 2} and "ward" not in json.dumps(verdict.as_dict())


def test_a_rival_is_described_with_the_same_patients(study: Study) -> None:
    folder = study()
    cases = [f"p{number:02}" for number in range(PATIENTS)]
    write_table(folder / "rivals" / "nnunet", cases, np.linspace(0.7, 0.9, PATIENTS).tolist(), seed=0)
    assert "nnunet" not in json.dumps(study_verdict(folder).as_dict()), "its scoring was killed"
    (folder / "rivals" / "nnunet" / "rival.json").write_text('{"blinded": false}', encoding="utf-8")
    verdict = study_verdict(folder)
    row = verdict.arms[-1]
    assert (row["name"], row["kind"], row["blinded"], row["n"]) == ("nnunet", "rival", False, PATIENTS)
    (found,) = (each for each in verdict.comparisons if each.b == "nnunet")
    assert (found.a, found.question, found.word) == ("ssa", "description", "")
    jsonschema.validate(verdict.as_dict(), SCHEMA)
    assert verdict.exported is not None and verdict.exported["name"] == "ssa"
    (folder / "rivals" / "nnunet").rename(folder / "rivals" / "full")
    with pytest.raises(ValueError, match="an arm of the study has this name"):
        study_verdict(folder)


def test_transductive_and_the_base_are_said(study: Study) -> None:
    sentence = study_verdict(study(transductive=True, base="made here, SSA on the same scans")).sentence
    assert "(transductive)" in sentence and "The base: made here, SSA on the same scans." in sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.pop("protocol"), "expected a mapping under 'protocol'"),
        (lambda plan: plan["protocol"].pop("margin"), "the field 'margin' is missing"),
        (lambda plan: plan["protocol"].update(margin=-1), "field 'margin': expected a number from 0 to 1"),
        (lambda plan: plan["protocol"].update(base="$import os"), "code to MONAI"),
        (
            lambda plan: plan["protocol"].update(metric="Brier score, mean over the classes"),
            "planned for the Brier score",
        ),
        (
            lambda plan: plan["protocol"].update(primaries=[["ssa", "no_ssa", "equality"]]),
            "expected one of 'superiority'",
        ),
        (lambda plan: plan["stages"][0].update(run="../../elsewhere"), "field 'run': expected text"),
        (lambda plan: plan["stages"][0].pop("fold"), "the field 'fold' is missing"),
        (lambda plan: plan["arms"][0].update(kind="magic"), "expected one of 'trained', 'floor'"),
        (lambda plan: plan.update(arms={"a": 1}), "arms: expected a list"),
    ],
)
def test_a_damaged_plan_is_one_line(change: Callable[[dict[str, Any]], Any], message: str, study: Study) -> None:
    folder = study({"ssa": 0.8, "no_ssa": 0.7})
    edit(folder, change)
    with pytest.raises(ValueError, match=message) as caught:
        study_verdict(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "!!python/object/apply:os.system ['true']", "[1]"])
def test_a_plan_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="expected the plan of a study") as caught:
        study_verdict(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="holds no plan.yaml"):
        study_verdict(tmp_path / "gone")


def test_other_numbers_of_labels_are_described_beside_the_verdict(study: Study) -> None:
    one = study_verdict(study())
    several = study(folder="several", further={3: {"ssa": 0.5, "no_ssa": 0.3}, 50: {"ssa": 0.9}})
    verdict = study_verdict(several)
    assert (verdict.sentence, verdict.arms, verdict.comparisons) == (one.sentence, one.arms, one.comparisons)
    few, many = verdict.as_dict()["efficiency"]
    assert (few["labels"], many["labels"]) == (3, 50)
    assert {row["name"]: row["mean"] for row in few["arms"]} == pytest.approx({"ssa": 0.5, "no_ssa": 0.3}, abs=0.03)
    (described,) = few["comparisons"]
    assert (described["question"], described["word"]) == ("description", None) and not many["comparisons"]
    jsonschema.validate(verdict.as_dict(), SCHEMA)
    assert "efficiency" not in one.as_dict()


def test_the_verdict_says_whether_rates_were_tried(study: Study) -> None:
    said = "No learning rate was tried, since lr was given."
    assert said in study_verdict(study(rate_check="none", rates=said)).sentence
