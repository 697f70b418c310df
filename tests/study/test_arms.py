# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What each arm of a study runs: its start, rate and steps, and the sections that it reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from monai_essa.bundling.folder import bundle_folder
from monai_essa.planning.networks import Images, Network, network_ladder
from monai_essa.study.arms import ARMS, Place, StudyDesign
from monai_essa.study.splits import SplitRequest, partition
from monai_essa.study.stages import Stage
from monai_essa.study.terms.listing import listed_stages, refit_stages
from monai_essa.study.terms.partition import Scan
from tests.study.tiny import TIMINGS

SIZES = {"pretext_batch": 8, "batch": 2, "lean": "fast", "cache_dir": None, "ssa_share": 0.4, "patients": 20}
BEFORE = {"base": "b", "ssa": "s", "tpp": "t", "full_ssa": "f"}
SEGRESNET = Network("SegResNet", "segresnet", {"feature_size": 8}, 8, 96)


def design(network: Network | None = None, task: str = "segmentation", **values: object) -> StudyDesign:
    images = Images(3, (1.0, 1.0, 2.0), (48, 64, 48), 1, "ct", {"background": 0, "liver": 1})
    network = network or network_ladder(task, 3)[-1]
    steps = {"base": 480, "ssa": 240, "train": 240}
    return StudyDesign(task, images, network, None, steps, SIZES, values, Path("/study"))


def training(name: str, of: StudyDesign | None = None) -> Stage:
    arm = next(arm for arm in ARMS if arm.name == name)
    return (of or design()).training(name, arm, Place(2, 1), BEFORE)


def steps(stage: Stage) -> float:
    return stage.values["max_epochs"] * stage.values["samples_per_epoch"] / stage.values["batch_size"]


def test_all_arms_take_the_same_steps_but_the_one_that_has_the_time_of_ssa_too() -> None:
    taken = {arm.name: steps(training(arm.name)) for arm in ARMS}
    assert taken.pop("no_ssa_longer") == 1.4 * 240
    assert set(taken.values()) == {240}


def test_the_checks_of_the_rates_run_at_a_third_and_are_else_their_arms() -> None:
    for name in ("ssa", "no_ssa"):
        own, third = training(name), training(f"{name}_third")
        assert third.values["lr"] == pytest.approx(own.values["lr"] / 3)
        different = {key for key in own.values if own.values[key] != third.values[key]}
        assert different == {"lr", "output_dir"} and own.configs == third.configs


@pytest.mark.parametrize("kind", ["ssa", "tpp", "full_ssa"])
def test_an_objective_is_that_of_the_stages_without_labels_and_not_of_the_base(kind: str) -> None:
    of = replace(design(prototypes=64), objective="dinov2")
    stage = of.adaptation("s", kind, Place(1, 1), "b")
    assert "objective_dinov2.yaml" in stage.configs and stage.values["prototypes"] == 64
    assert stage.values["pretrained"] == "/study/runs/b/model.pt" and "pretext_head" not in stage.values
    assert "koleo" not in stage.values and "prototypes" not in training("ssa", of).values
    assert "objective_dinov2.yaml" not in of.base("b", Place(1, 1)).configs
    few = replace(of, sizes=SIZES | {"patients": 3})
    assert few.adaptation("s", kind, Place(1, 1), "b").values["koleo"] == 0.0


@pytest.mark.parametrize(
    ("arm", "start", "files"),
    [
        ("ssa", "adapter", {"pretrained": "/study/runs/b/model.pt", "adapter": "/study/runs/s/adapter.safetensors"}),
        ("no_ssa", "encoder", {"pretrained": "/study/runs/b/model.pt"}),
        ("full", "encoder", {"pretrained": "/study/runs/b/model.pt"}),
        ("head", "encoder", {"pretrained": "/study/runs/b/model.pt"}),
        ("full_ssa", "encoder", {"pretrained": "/study/runs/f/model.pt"}),
        ("scratch", None, {}),
    ],
)
def test_an_arm_starts_where_its_name_says(arm: str, start: str | None, files: dict[str, str]) -> None:
    values = training(arm).values
    assert values.get("start") == start
    assert {key: values[key] for key in ("pretrained", "adapter") if key in values} == files


def test_a_method_that_adds_tensors_keeps_them_for_tpp_and_merges_them_for_ssa() -> None:
    """Otherwise TPP and SSA would be one arm under two names: both train what the method adds."""
    of = design(SEGRESNET)
    assert training("ssa", of).values["pretrained"] == "/study/runs/s/model.pt"
    assert training("tpp", of).values["adapter"] == "/study/runs/t/adapter.safetensors"


def test_the_users_values_win_where_a_bundle_has_them_and_the_control_keeps_its_width() -> None:
    of = design(hidden_size=24, feature_size=4)
    assert of.base("base", Place(1, 1)).values["hidden_size"] == 24
    assert "feature_size" not in of.base("base", Place(1, 1)).values
    assert training("no_ssa", of).values["feature_size"] == 4
    assert training("scratch", of).values["feature_size"] == 8


def test_a_test_reads_the_patients_that_are_left_out_and_writes_into_the_run() -> None:
    of = design()
    stage = of.test("x-test", training("ssa", of), Place(2, 1))
    assert stage.values["validation_section"] == "repeat_2#fold_1#test"
    assert stage.values["output_dir"] == "/study/runs/ssa"
    assert stage.configs[-1] == "evaluate.yaml" and "last_epoch.yaml" not in stage.configs


@pytest.mark.parametrize("bundle", ["essa_ssa", "essa_tpp", "essa_segmentation", "essa_classification"])
def test_what_is_switched_off_by_its_place_stands_there(bundle: str) -> None:
    config = yaml.safe_load((bundle_folder(bundle) / "configs" / "train.yaml").read_text(encoding="utf-8"))
    names = [handler["_target_"].rpartition(".")[2] for handler in config["train"]["handlers"]]
    assert names[2] == "CostFile"
    if bundle in ("essa_segmentation", "essa_classification"):
        assert (names[5], names[10]) == ("ValidationHandler", "RestoreBest")
        assert config["initialize"][5]["_target_"].startswith(("monai_essa.engines.check_f", "monai_essa.data.check_e"))


def test_a_decoder_or_head_from_nothing_learns_at_its_own_rate_in_every_arm() -> None:
    segmented = {arm.name: training(arm.name).values["lr"] for arm in ARMS if not arm.slower and arm.name != "tpp"}
    assert set(segmented.values()) == {3.0e-3}
    given = replace(design(), pretrained="/vit.pt")
    assert training("full", given).values["lr"] == 1.0e-3 and training("ssa", given).values["lr"] == 3.0e-3
    of = design(task="classification")
    for name in ("ssa", "no_ssa", "scratch", "full", "head"):
        values = training(name, of).values
        assert values["lr"] * values["head_lr_factor"] == pytest.approx(3.0e-3)
    assert training("full", of).values["lr"] == 3.0e-4 and "head_lr_factor" not in training("full").values


@pytest.mark.parametrize(("unlabelled", "cached"), [(1920, True), (2500, False)])
def test_no_stage_loads_scans_that_none_of_its_steps_sees(unlabelled: int, cached: bool) -> None:
    parts = partition(folds(12, unlabelled), SplitRequest(repeats=1))
    planned, stage = next(row for row in listed_stages(design(), TIMINGS, ARMS[:2], parts) if row[0].kind == "ssa")
    assert steps(stage) * stage.values["batch_size"] == 1920 and ("cache_rate" not in stage.values) is cached
    loaded = unlabelled if cached else 1920 + unlabelled // 10
    assert planned.seconds == pytest.approx(TIMINGS.training("ssa", None, 240, loaded), abs=0.1)
    held_out = yaml.safe_load((bundle_folder("essa_ssa") / "configs" / "train.yaml").read_text())["hold_out"]
    assert held_out == 10


def folds(labelled: int, unlabelled: int) -> list[Scan]:
    scans = [Scan(f"/l{number}.nii", f"/l{number}_seg.nii", f"l{number}") for number in range(labelled)]
    return scans + [Scan(f"/u{number}.nii", None, f"u{number}") for number in range(unlabelled)]


@pytest.mark.parametrize(("unlabelled", "bases"), [(20, 2), (3, 10)])
def test_ssa_runs_once_a_repeat_or_for_each_fold_whose_scans_it_sees(unlabelled: int, bases: int) -> None:
    parts = partition(folds(10, unlabelled), SplitRequest(repeats=2))
    listed = listed_stages(design(), TIMINGS, ARMS[:2], parts)
    kinds = [planned.kind for planned, _ in listed]
    assert (kinds.count("base"), kinds.count("ssa")) == (bases, bases)
    assert (kinds.count("train"), kinds.count("test"), kinds.count("floor")) == (20, 20, 20)


def test_a_stage_comes_after_what_it_needs_and_names_are_unique() -> None:
    parts = partition(folds(12, 0), SplitRequest(repeats=2))
    listed = [*listed_stages(design(), TIMINGS, ARMS, parts), *refit_stages(design(), TIMINGS, ARMS, parts.refit)]
    seen: set[str] = set()
    for planned, stage in listed:
        assert planned.name == stage.name and planned.name not in seen
        assert set(planned.needs) <= seen
        seen.add(planned.name)


def test_what_is_exported_trains_on_everything() -> None:
    parts = partition(folds(12, 4), SplitRequest(repeats=1))
    for planned, stage in refit_stages(design(), TIMINGS, ARMS, parts.refit):
        assert planned.kind == "refit" and planned.repeat == 0
        assert stage.values["section"] in ("all#training", "all#unlabeled")
    assert not any(planned.arm == "ssa_third" for planned, _ in refit_stages(design(), TIMINGS, ARMS, parts.refit))


def test_a_given_base_is_not_made_again() -> None:
    parts = partition(folds(12, 30), SplitRequest(repeats=1))
    given = replace(design(), pretrained="/weights.pt")
    listed = listed_stages(given, TIMINGS, ARMS[:2], parts)
    assert "base" not in [planned.kind for planned, _ in listed]
    assert {stage.values["pretrained"] for planned, stage in listed if planned.kind in ("ssa", "train")} == {
        "/weights.pt"
    }


def test_the_users_overlay_wins_in_every_stage_and_the_network_from_scratch_keeps_its_own_encoder() -> None:
    described = Network("own", "described", {}, 16, 64, in_channels=3)
    images = Images(2, None, (64, 64), 1, None, {"no": 0, "yes": 1})
    files = {"essa_ssa": "/o/ssa.yaml", "essa_classification": "/o/task.yaml"}
    of = replace(design(described, "classification"), images=images, pretrained="/w.pt", overlays=files)
    for stage in (of.adaptation("s", "ssa", Place(1, 1), None), of.adaptation("f", "full_ssa", Place(1, 1), None)):
        assert stage.configs[-2:] == ("objective_simmim.yaml", "/o/ssa.yaml")
    for name in ("ssa", "no_ssa", "full", "head", "full_ssa"):
        assert training(name, of).configs[-2:] == ("/o/task.yaml", "last_epoch.yaml")
    scratch = training("scratch", of)
    assert scratch.configs[-3:] == ("/o/task.yaml", "network_segresnet.yaml", "last_epoch.yaml")
    assert scratch.values["encoder_def#in_channels"] == 3 and scratch.values["in_channels"] == 1
    tested = of.test("x-test", training("ssa", of), Place(1, 1))
    assert tested.configs[-2:] == ("/o/task.yaml", "evaluate.yaml")


@pytest.mark.parametrize("kind", ["ssa", "full_ssa", "tpp"])
def test_the_width_of_given_weights_reaches_the_stages_without_labels(kind: str) -> None:
    """It is a key of the network's overlay there, and not of train.yaml."""
    assert design(SEGRESNET).adaptation("s", kind, Place(1, 1), "b").values["feature_size"] == 8
