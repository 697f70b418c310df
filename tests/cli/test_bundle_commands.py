# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`bundles list` names what ships; `bundles copy` turns its options into a variant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from monai_essa.bundling.folder import list_bundles

WIDTH = ["--args", "img_size=[32,32,32]", "hidden_size=48", "mlp_dim=96", "num_heads=4"]


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_list_names_every_bundle_with_task_and_networks(monai_essa) -> None:
    given = monai_essa("bundles", "list")
    rows = given.out.splitlines()[2:]
    assert given.code == 0
    assert tuple(row.split()[0] for row in rows) == list_bundles()
    segmentation = next(row for row in rows if row.startswith("essa_segmentation"))
    assert "Segmentation of 3-D volumes" in segmentation
    assert "segresnet, swin_unetr, swin_unetr_v2, unetr" in segmentation


def test_copy_makes_a_bundle_of_the_chosen_variant(monai_essa, volumes: Path, tmp_path: Path) -> None:
    given = monai_essa(
        *("bundles", "copy", "essa_segmentation", tmp_path / "mine", "--name", "ball_ct"),
        *("--network", "unetr", "--method", "lora", "--intensity", "ct", "--labels", volumes / "dataset.json"),
        *(*WIDTH, "feature_size=4", "spacing=[1.5,1.5,2]"),
    )
    folder = tmp_path / "mine" / "ball_ct"
    assert given.code == 0
    assert f"wrote {folder}" in given.out and "it has no weights" in given.out
    train, inference = read(folder / "configs" / "train.yaml"), read(folder / "configs" / "inference.yaml")
    assert train["method"]["_target_"] == "monai_essa.methods.LoRA"
    assert train["labels"] == inference["labels"] == {"background": 0, "ball": 1}
    assert train["spacing"] == inference["spacing"] == [1.5, 1.5, 2]
    assert train["intensity_name"] == "ct"


def test_copy_takes_a_run_and_keeps_the_name(monai_essa, segmentation_runs, volumes: Path, tmp_path: Path) -> None:
    given = monai_essa(
        *("bundles", "copy", "essa_segmentation", tmp_path, "--run", segmentation_runs[1]),
        *("--labels", volumes / "dataset.json", *WIDTH, "feature_size=4"),
    )
    assert given.code == 0
    assert "no weights" not in given.out
    assert (tmp_path / "essa_segmentation" / "models" / "model.pt").is_file()


def test_a_copy_can_be_copied(monai_essa, tmp_path: Path) -> None:
    monai_essa("bundles", "copy", "essa_ssa", tmp_path, "--name", "first", *WIDTH)
    given = monai_essa("bundles", "copy", tmp_path / "first", tmp_path, "--name", "second", "--method", "lora")
    assert given.code == 0
    assert read(tmp_path / "second" / "configs" / "train.yaml")["hidden_size"] == 48


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "background", "1": "a", "2": "b"}, None),
        ({"background": 0, "a": 1, "b": 2}, None),
        ({"2": "b", "0": "background", "1": "a"}, None),
        ({"0": "background", "2": "b"}, "expected label ids 0, 1, 2 ... without a gap, got [0, 2]"),
        (None, "expected 'labels'"),
        ({"0": "background", "1": "$__import__('pathlib').Path('marker').touch()"}, "dataset.json, field 'labels'"),
        ({"background": 0, "a\nlr: 1": 1}, "dataset.json, field 'labels'"),
    ],
)
def test_labels_are_read_from_a_datalist(labels, message: str | None, monai_essa, tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": labels, "training": []}), encoding="utf-8")
    given = monai_essa("bundles", "copy", "essa_segmentation", tmp_path, "--labels", path, *WIDTH, "feature_size=4")
    if message:
        assert given.code == 1
        assert len(given.err.splitlines()) == 1 and message in given.err
    else:
        train = read(tmp_path / "essa_segmentation" / "configs" / "train.yaml")
        assert train["labels"] == {"background": 0, "a": 1, "b": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["essa_sseg"], "no bundle is named 'essa_sseg'; did you mean"),
        (["essa_tpp", "--network", "vitt"], "--network vitt: the bundle has resnet, segresnet, swin_unetr, "),
        (["essa_ssa", "--args", "imgsize=3"], "did you mean img_size"),
        (["essa_ssa", "--args", "img_size"], "expected KEY=VALUE"),
        (["essa_ssa", "--run", "nowhere"], "nowhere/run.json: no such file"),
    ],
)
def test_a_wrong_choice_is_one_line(arguments: list[str], message: str, monai_essa, tmp_path: Path) -> None:
    name, *options = arguments
    given = monai_essa("bundles", "copy", name, tmp_path, *options)
    assert given.code == 1
    assert len(given.err.splitlines()) == 1 and message in given.err
    assert list(tmp_path.iterdir()) == []
