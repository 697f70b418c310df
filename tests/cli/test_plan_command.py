# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for `monai-essa plan`: the file that it writes is run, and what cannot be planned is one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import yaml

SMALL = ("--args", "hidden_size=48", "mlp_dim=96", "num_heads=4")


def planned(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def files_of(plan: dict[str, Any]) -> list[str]:
    return [f"{Path(file).parts[-3]}/{Path(file).name}" for file in plan["config_file"]]


def run(path: Path) -> None:
    """Runs a plan for one epoch of at most one batch."""
    few = {"max_epochs": 1, "val_interval": 1, "samples_per_epoch": planned(path)["batch_size"]}
    monai.bundle.run(args_file=str(path), logging_file=False, **few)


@pytest.mark.slow  # measures the peaks and the steps of a whole network, then trains it
def test_a_plan_for_labelled_scans_runs(monai_essa, hippocampus_tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "my_site.yaml"
    arguments = ("--memory", "1GB", "--hours", 0.1, "--out", out, *SMALL, "feature_size=4")
    done = monai_essa("plan", hippocampus_tiny, *arguments)
    assert (done.code, done.err.count("monai-essa:")) == (0, 0)
    plan = planned(out)
    assert files_of(plan) == ["essa_segmentation/train.yaml", "essa_segmentation/start_random.yaml"]
    assert plan["labels"] == {"background": 0, "anterior": 1, "posterior": 2}
    assert (plan["img_size"], plan["spacing"], plan["lean"]) == ([48, 64, 48], [1.0, 1.0, 1.0], "fast")
    assert plan["batch_size"] == 4  # 8 would take 0.44 GB of the 0.3 GB that a step may take
    assert "# 48 x 64 x 48 mm, 100% of the median scan (36 x 50 x 38 mm)" in out.read_text(encoding="utf-8")
    assert all(" # " in line for line in out.read_text(encoding="utf-8").splitlines()[3:])
    assert "peak of a training step: " in done.out

    run(out)
    assert (tmp_path / "runs" / "my_site" / "model.pt").is_file()


@pytest.mark.slow  # trains what was planned
def test_a_plan_for_a_ct_without_a_datalist_runs(monai_essa, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "ct.yaml"
    folder = data_dir / "odd-files" / "ct_spleen_float32_noq"
    assert monai_essa("plan", folder, "--hours", 0.01, "--out", out, *SMALL).code == 0
    plan = planned(out)
    assert files_of(plan) == ["essa_ssa/train.yaml", "essa_ssa/method_full.yaml", "essa_ssa/intensity_ct.yaml"]
    assert (plan["batch_size"], plan["img_size"], plan["spacing"][2]) == (1, [96, 96, 32], 5.0)
    assert plan["datalist"] == str(tmp_path / "ct_dataset.json")
    run(out)
    assert (tmp_path / "runs" / "ct" / "model.pt").is_file()


def test_unlabelled_scans_join_those_whose_labels_are_not_used(monai_essa, volumes: Path, tmp_path: Path) -> None:
    scans = Path(shutil.copytree(volumes, tmp_path / "scans"))
    for file in [scans / "dataset.json", *scans.glob("case[23]_seg*")]:
        file.unlink()
    out = tmp_path / "my_site.yaml"
    assert monai_essa("plan", scans, "--out", out, "--hours", 0.01, *SMALL).code == 0
    assert planned(out)["section"] == ["unlabeled", "training"]
    assert "2 of 4 scans have a label for training" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--memory", "12 apples"), "--memory 12 apples: expected an amount such as 12GB, 24GiB or 800MB"),
        (("--hours", "soon"), "--hours soon: expected a number above 0, such as 8 or 0.5"),
        (("--hours", "-1"), "--hours -1: expected a number above 0"),
        (("--pretrained", "none.pt"), "none.pt: no such weight file"),
        (("--adapter", "none.safetensors"), "--adapter is for --stage segmentation and belongs to the weights"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    arguments: tuple[str, str], line: str, monai_essa, volumes: Path, tmp_path: Path
) -> None:
    done = monai_essa("plan", volumes, f"{arguments[0]}={arguments[1]}", "--out", tmp_path / "my_site.yaml")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"monai-essa: {line}")
    assert not (tmp_path / "my_site.yaml").exists()


def test_a_plan_that_failed_leaves_nothing_in_the_way(monai_essa, volumes: Path, tmp_path: Path) -> None:
    scans = Path(shutil.copytree(volumes, tmp_path / "scans"))
    (scans / "dataset.json").unlink()
    done = monai_essa("plan", scans, "--memory", "600MB", "--out", tmp_path / "my_site.yaml", *SMALL)
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("monai-essa: memory: expected at least")
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_an_empty_folder_is_one_line(monai_essa, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    done = monai_essa("plan", tmp_path / "scans", "--out", tmp_path / "my_site.yaml")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "expected NIfTI, NRRD, MetaImage or DICOM images" in done.err


def test_a_plan_that_exists_stays(monai_essa, volumes: Path, tmp_path: Path) -> None:
    (tmp_path / "my_site.yaml").write_text("mine", encoding="utf-8")
    done = monai_essa("plan", volumes, "--out", tmp_path / "my_site.yaml")
    assert done.code == 1
    assert "my_site.yaml exists; expected a new file" in done.err
