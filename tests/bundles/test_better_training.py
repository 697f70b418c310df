# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a supervised run can be given by one key each: alone and together, over a kill, and refused where they clash."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file

from monai_essa.engines.checkpoint import read_resume_file
from monai_essa.error_line import root_cause
from monai_essa.evaluation import read_run
from tests.bundles.test_resume import interrupt

RunBundle = Callable[..., ConfigWorkflow]
Refused = Callable[..., str]
BUNDLES = ("essa_segmentation", "essa_classification")
RANDOM: dict[str, Any] = {"start": "random", "method": {"_target_": "monai_essa.methods.FullTuning"}}
STEPS: dict[str, Any] = {"max_epochs": 2, "batch_size": 1, "samples_per_epoch": 4, "train#handlers#0#every": 2}
# All keys of the training together, beside accumulation and the smaller recipe.
KEYS: dict[str, Any] = {"ema": 0.9, "layer_decay": 0.75, "patience": 2, "class_weights": "balanced"}
KEYS |= {"accumulation": 2, "lean": "small"}
LABELS = {"background": 0, "anterior": 1, "posterior": 2}


@pytest.fixture
def data(volumes: Path, classes: Path) -> Callable[[str], dict[str, Any]]:
    """The data of a bundle, with an eighth of the windows in validation."""

    def of(bundle: str) -> dict[str, Any]:
        if bundle == "essa_classification":
            return {"datalist": classes}
        return {"dataset_dir": volumes, "validate#inferer#overlap": 0.0}

    return of


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return found


def assert_same(one: Path, other: Path) -> None:
    assert (one / "losses.jsonl").read_text("utf-8") == (other / "losses.jsonl").read_text("utf-8")
    for read in (lambda run: load_file(run / "adapter.safetensors"), lambda run: torch.load(run / "model.pt")):
        got, expected = read(one), read(other)
        assert [name for name in expected if not torch.equal(got[name], expected[name])] == []


@pytest.mark.slow  # three runs of eight steps
@pytest.mark.parametrize("bundle", BUNDLES)
def test_with_all_keys_a_killed_run_ends_as_the_unbroken_one(
    bundle: str, data, open_bundle: RunBundle, run_bundle: RunBundle, tmp_path: Path
) -> None:
    values = RANDOM | STEPS | KEYS | data(bundle)
    if bundle == "essa_segmentation":
        values["balanced_crops"] = True
    run_bundle(bundle, "train.yaml", output_dir=tmp_path / "unbroken", **values)
    values |= {"output_dir": tmp_path / "killed", "cache_dir": tmp_path / "cache"}
    for iteration in (3, 7):
        interrupt(open_bundle(bundle, "train.yaml", **values), iteration)
    run_bundle(bundle, "train.yaml", **values)
    assert_same(tmp_path / "killed", tmp_path / "unbroken")
    settings = record(tmp_path / "killed")["settings"]
    assert {key: settings[key] for key in ("ema", "layer_decay", "patience", "class_weights")} == {
        key: KEYS[key] for key in ("ema", "layer_decay", "patience", "class_weights")
    }


@pytest.mark.parametrize("overlay", [(), ("last_epoch.yaml",)], ids=["best epoch", "last epoch"])
def test_the_average_is_what_a_run_writes(
    overlay: tuple[str, ...], data, run_bundle: RunBundle, tmp_path: Path
) -> None:
    values = RANDOM | STEPS | data("essa_classification") | {"max_epochs": 1, "ema": 0.9, "keep_resume": True}
    run_bundle("essa_classification", "train.yaml", *overlay, output_dir=tmp_path, **values)
    content = read_resume_file(tmp_path / "resume")
    assert content is not None
    written = torch.load(tmp_path / "model.pt", weights_only=True)
    start = "average.tensors."
    averages = {
        name.removeprefix(start).replace("/", "."): tensor
        for name, tensor in content["objective"].items()
        if start in name
    }
    assert "head.weight" in averages
    for name, tensor in averages.items():
        assert torch.equal(written[name], tensor), name
    assert not torch.equal(written["head.weight"], content["objective"]["network.head.weight"])


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_run_that_does_not_improve_ends_early_and_is_finished(
    bundle: str, data, run_bundle: RunBundle, tmp_path: Path
) -> None:
    values = RANDOM | STEPS | data(bundle) | {"max_epochs": 9, "samples_per_epoch": 1, "lr": 0.0, "patience": 2}
    values |= {"keep_resume": True, "output_dir": tmp_path}
    run_bundle(bundle, "train.yaml", **values)
    found = record(tmp_path)
    assert (found["status"], found["epochs"], found["iterations"], found["notes"]["epochs"]) == ("finished", 3, 3, 9)
    before = load_file(tmp_path / "adapter.safetensors")
    (tmp_path / "run.json").write_text(json.dumps(found | {"status": "running"}), encoding="utf-8")
    (tmp_path / "adapter.safetensors").unlink()  # as if it was killed while it wrote its results
    run_bundle(bundle, "train.yaml", **values)
    assert record(tmp_path)["epochs"] == 3
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in load_file(tmp_path / "adapter.safetensors").items()
    )


@pytest.mark.parametrize("bundle", BUNDLES)
def test_folds_part_the_training_section(bundle: str, data, open_bundle: RunBundle, tmp_path: Path) -> None:
    items = {}
    for fold in (None, 0, 1):
        parser = open_bundle(bundle, "train.yaml", **data(bundle), fold=fold, folds=2).parser
        items[fold] = [
            {item["image"] for item in parser.get_parsed_content(f"{part}_items")}
            for part in ("training", "validation")
        ]
    assert [len(part) for part in items[None]] == [4, 2]
    assert [len(part) for part in items[0]] == [2, 2]
    assert items[0] == items[1][::-1] and items[0][0] | items[0][1] == items[None][0]
    evaluation = open_bundle(bundle, "train.yaml", "evaluate.yaml", **data(bundle), fold=1, folds=2).parser
    assert {item["image"] for item in evaluation.get_parsed_content("validation_items")} == items[1][1]


@pytest.fixture
def members(open_bundle: RunBundle, tmp_path: Path) -> Callable[..., list[Path]]:
    """Folders of runs with networks as they are drawn, whose outputs are far apart."""

    def write(bundle: str, **settings: Any) -> list[Path]:
        folders = []
        for number in range(2):
            parser = open_bundle(bundle, "train.yaml").parser
            torch.manual_seed(number)
            state = parser.get_parsed_content("network_def").state_dict()
            keys = ("labels", "spacing", "axcodes", "intensity_name", "multi_label")
            known = {key: parser.get_parsed_content(key) for key in keys if key in parser} | settings
            folder = tmp_path / f"run_{number}"
            folder.mkdir()
            content = {"seed": 0, "data": "", "config": {}, "status": "finished", "settings": known}
            (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
            torch.save({name: tensor * (1 + 2 * number) for name, tensor in state.items()}, folder / "model.pt")
            folders.append(folder)
        return folders

    return write


@pytest.mark.parametrize(
    ("bundle", "values"),
    [("essa_segmentation", {}), ("essa_classification", {}), ("essa_classification", {"multi_label": True})],
    ids=["segmentation", "classes", "several classes"],
)
@torch.no_grad()
def test_inference_averages_as_the_evaluation_does(
    bundle: str, values: dict[str, Any], data, members, open_bundle: RunBundle, tmp_path: Path
) -> None:
    runs = [str(run) for run in members(bundle, **values)]
    values = values | {"flips": [2, 0], "ensemble": runs, "output_dir": tmp_path / "ensemble"}
    evaluation = open_bundle(bundle, "train.yaml", "evaluate.yaml", **data(bundle), **values).parser
    inference = open_bundle(bundle, "inference.yaml", **values).parser
    image, logits = torch.randn(1, 1, 32, 32, 32), []
    for parser, name in ((evaluation, "validate#evaluator"), (inference, "evaluator")):
        network = parser.get_parsed_content("network").eval()
        network.load_state_dict(torch.load(runs[0] + "/model.pt", weights_only=True))
        logits.append(parser.get_parsed_content(f"{name}#inferer")(image, network))
        assert parser.get_parsed_content("checkpoint") == runs[0] + "/model.pt"
    torch.testing.assert_close(logits[1], logits[0], atol=1e-4, rtol=1e-3)
    alone = evaluation.get_parsed_content("validate#inferer")(image, evaluation.get_parsed_content("network"))
    assert not torch.allclose(logits[0], alone, atol=1e-2)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_without_the_keys_the_inferer_is_that_of_the_config(bundle: str, data, open_bundle: RunBundle) -> None:
    parser = open_bundle(bundle, "inference.yaml").parser
    assert parser.get_parsed_content("evaluator#inferer") is parser.get_parsed_content("inferer")


@pytest.mark.parametrize("bundle", BUNDLES)
def test_an_ensemble_with_flips_is_scored_and_predicts(
    bundle: str, data, members, volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    values = {"flips": [1], "ensemble": [str(run) for run in members(bundle)]}
    folder = tmp_path / "ensemble"
    evaluation = data(bundle) | {"validation_section": "validation", "output_dir": folder}
    run_bundle(bundle, "train.yaml", "evaluate.yaml", **evaluation, **values)
    assert len(read_run(folder).scores) == 2
    small = {"inferer#overlap": 0.0} if bundle == "essa_segmentation" else {}
    values |= {"dataset_dir": volumes, "pattern": "image_00*", "output_dir": tmp_path / "out"}
    run_bundle(bundle, "inference.yaml", **values, **small)
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("bundle", BUNDLES)
def test_runs_of_other_labels_are_no_ensemble(
    bundle: str, data, members, open_bundle: RunBundle, tmp_path: Path
) -> None:
    runs = [str(run) for run in members(bundle, labels={"background": 0, "spleen": 1})]
    evaluation = open_bundle(bundle, "train.yaml", "evaluate.yaml", **data(bundle), ensemble=runs, output_dir=tmp_path)
    for parser in (evaluation.parser, open_bundle(bundle, "inference.yaml", ensemble=runs).parser):
        with pytest.raises(Exception) as caught:
            parser.get_parsed_content("averaged")
        assert "average runs of the same labels" in str(root_cause(caught.value))


REFUSALS = {
    "weights": ("essa_segmentation", {"class_weights": [1.0, 2.0]}, "'balanced' or a list of 3 numbers in the order"),
    "weights of images": ("essa_classification", {"class_weights": [1.0]}, "'balanced' or a list of 2 numbers in the"),
    "no such class": (
        "essa_segmentation",
        {"class_weights": "balanced", "labels": LABELS | {"tail": 3}},
        "class_weights 'balanced': no training label holds 'tail'",
    ),
    "no such crop": (
        "essa_segmentation",
        {"balanced_crops": True, "labels": LABELS | {"tail": 3}},
        "balanced_crops: no training label holds 'tail'",
    ),
    "text": ("essa_segmentation", {"balanced_crops": "false"}, "balanced_crops: expected True or False, got 'false'"),
    "momentum": ("essa_classification", {"ema": 1.0}, "ema: expected a number from 0 to 0.999999, got 1.0"),
    "decay": ("essa_classification", {"layer_decay": 1.5}, "layer_decay: expected a number from 0 to 1, got 1.5"),
    "patience": ("essa_classification", {"patience": 0}, "patience: expected a whole number from 1"),
    "no validation": (
        "essa_classification",
        {"patience": 2, "val_interval": 5},
        "val_interval: expected a whole number from 1 to max_epochs (1), got 5; without a validation",
    ),
    "nothing validates": (
        "essa_classification",
        {"patience": 2, "validation_items": []},
        "patience 2 needs a validation, and this run has none: leave out patience, or last_epoch.yaml",
    ),
    "fold": ("essa_segmentation", {"fold": 5}, "fold: expected a whole number from 0 to 4, got 5"),
    "folds": ("essa_segmentation", {"fold": 0}, "folds: expected at most 4, the number of patients, got 5; set fewer"),
}


@pytest.mark.parametrize(("bundle", "values", "expected"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_is_refused_in_one_line(
    bundle: str, values: dict[str, Any], expected: str, data, refused: Refused
) -> None:
    if "validation_items" in values:
        values = values | {"train#handlers#5#_disabled_": True, "initialize#5#_disabled_": True}  # as last_epoch.yaml
    assert expected in refused(bundle, **(RANDOM | data(bundle) | values))
