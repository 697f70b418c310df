# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Code that a data list, a file name or a label name carries into a command is never run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

CODE = "$__import__('pathlib').Path('MARKER').touch()"
LINE = f"CT\nbatch_size: {CODE}\u2028max_epochs: {CODE}\x85spacing: {CODE}"
SMALL = ("--args", "hidden_size=48", "mlp_dim=96", "num_heads=4", "img_size=[32,32,32]")
NAMES: dict[str, Callable[[str], dict[str, Any]]] = {
    "modality": lambda text: {"modality": {"0": text}},
    "modality as text": lambda text: {"modality": text},
    "channel_names": lambda text: {"channel_names": {"0": text}},
    "labels": lambda text: {"labels": {"0": "background", "1": text}},
    "labels by name": lambda text: {"labels": {"background": 0, text: 1}},
}


@pytest.fixture
def scans(volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The volumes as the current folder: a relative path begins with whatever the file's name begins with."""
    folder = Path(shutil.copytree(volumes, tmp_path / "scans"))
    monkeypatch.chdir(folder)
    return folder


def plant(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def assert_nothing_ran(folder: Path) -> None:
    assert not [path for path in folder.rglob("*") if path.name == "MARKER"]


def assert_one_line(err: str) -> None:
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("monai-essa:")]) <= 1


@pytest.mark.parametrize("field", NAMES)
def test_plan_refuses_lines_in_a_name(field: str, monai_essa, scans: Path) -> None:
    plant(scans, lambda datalist: datalist | NAMES[field](LINE))
    done = monai_essa("plan", ".", *SMALL)
    assert (done.code, (scans / "my_site.yaml").exists()) == (1, False)
    assert done.err.splitlines()[-1].startswith(f"monai-essa: {scans / 'dataset.json'}, field '{field.split()[0]}'")
    assert_nothing_ran(scans)


def test_plan_and_its_file_run_no_field_that_they_do_not_know(monai_essa, scans: Path) -> None:
    texts = dict.fromkeys(("name", "description", "tensorImageSize", "spacing", "device", "batch_size"), CODE)
    more = {"patient": CODE, "spacing": CODE, "fold": CODE}

    def change(datalist: dict[str, Any]) -> dict[str, Any]:
        items = [item | more for item in datalist["training"]]
        return datalist | texts | {"training": items[:2], "modality": CODE, CODE: items[2:]}

    plant(scans, change)
    assert monai_essa("plan", ".", "--hours", 0.001, "--stage", "ssa", *SMALL).code == 0
    refused = monai_essa("run", "--dry-run", "--args_file", "my_site.yaml")
    assert refused.code == 1 and "item 0.fold: expected a whole number" in refused.out
    assert_nothing_ran(scans)


def test_no_card_of_a_weight_file_or_an_adapter_is_run(monai_essa, files, scans: Path) -> None:
    card = {"spacing": CODE, "labels": {CODE: 0}, "_target_": "os.mkdir", "path": "MARKER"}
    weights, adapter = scans / "vit.safetensors", scans / "a.safetensors"
    state = torch.load(files.base, weights_only=True)
    save_file(state, weights, metadata={"preprocessing": json.dumps(card), "monai_essa": json.dumps(card)})
    with safe_open(files.adapters[0], framework="pt") as file:
        record = json.loads(file.metadata()["monai_essa"]) | {"preprocessing": card, "versions": card, "network": CODE}
        save_file({name: file.get_tensor(name) for name in file.keys()}, adapter, {"monai_essa": json.dumps(record)})
    for arguments in (
        ("plan", ".", "--hours", 0.001, "--stage", "ssa", "--pretrained", weights, *SMALL),
        ("adapter", "info", adapter),
        ("adapter", "merge", adapter, "--base", weights, "--bundle", "essa_ssa", "--out", "model.pt", *SMALL),
    ):
        assert_one_line(monai_essa(*arguments).err)
        assert_nothing_ran(scans)


@pytest.mark.parametrize("label", [{"_target_": "os.mkdir", "path": "MARKER"}, [{"a": CODE}]])
def test_plan_runs_no_label(label: Any, monai_essa, scans: Path) -> None:
    def change(datalist: dict[str, Any]) -> dict[str, Any]:
        planted = [item | {"label": label} for item in datalist["training"]]
        return datalist | {"training": [*planted, *datalist["validation"]]}

    plant(scans, change)
    done = monai_essa("plan", ".", "--hours", 0.001, "--stage", "segmentation", *SMALL, "feature_size=4")
    assert done.code == 1
    assert_one_line(done.err)
    assert_nothing_ran(scans)


@pytest.mark.parametrize("field", ["labels", "labels by name"])
@pytest.mark.parametrize("text", [CODE, LINE, "%MARKER", "@network_def"], ids=["code", "line", "macro", "reference"])
def test_bundles_copy_refuses_code_for_a_name(field: str, text: str, monai_essa, scans: Path) -> None:
    plant(scans, lambda datalist: datalist | NAMES[field](text))
    done = monai_essa("bundles", "copy", "essa_segmentation", "--labels", "dataset.json", *SMALL, "feature_size=4")
    assert done.err.startswith("monai-essa: dataset.json, field 'labels'")
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert_nothing_ran(scans)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
def test_no_name_of_a_file_is_run(monai_essa, scans: Path) -> None:
    """From the list to the dry run of the plan, with images and label maps whose names are code or lines of YAML."""
    for number, name in enumerate(["$open('MARKER','w')#", "a\nbatch_size: $open('MARKER','w')#", "@network", "%x"]):
        (scans / f"case{number}.nii.gz").rename(scans / f"{name}{number}.nii.gz")
        (scans / f"case{number}_seg.nii.gz").rename(scans / f"{name}{number}_seg.nii.gz")
    (scans / "dataset.json").unlink()
    assert monai_essa("data", "datalist", ".", "--fractions", "training=0.5", "validation=0.5").code == 0
    for arguments in (
        ("data", "check", "dataset.json"),
        ("plan", ".", "--hours", 0.001, "--stage", "ssa", *SMALL),
        ("run", "--dry-run", "--args_file", "my_site.yaml"),
    ):
        assert_one_line(monai_essa(*arguments).err)
        assert_nothing_ran(scans)
