# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The dry run checks the data, takes two real steps and writes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_essa.bundling.folder import bundle_folder
from monai_essa.cli.run_commands import dry_run

WIDTH: dict[str, Any] = {"img_size": [32] * 3, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}


def train_config(bundle: str) -> list[str]:
    return [str(bundle_folder(bundle) / "configs" / "train.yaml")]


@pytest.fixture
def site(volumes: Path, files, tmp_path: Path) -> dict[str, Any]:
    places = {"dataset_dir": str(volumes), "pretrained": str(files.base), "output_dir": str(tmp_path / "run")}
    return WIDTH | places | {"device": "$torch.device('cpu')", "precision": "fp32"}


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)


def test_adaptation_would_run(site: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert dry_run(train_config("essa_ssa"), site | {"max_epochs": 30}) == 0
    said = lines(capsys)
    assert said["images"] == "training 3"
    assert float(said["loss"].split()[0]) > 0
    assert said["estimate"].startswith("30 steps, about ")  # 3 scans, one held out, batches of 2
    assert said["patch"].startswith("32 x 32 x 32 mm, holds 100% of the median scan (32 x 32 x 32 mm;")
    assert said["memory"] == "measured on CUDA only (this run: cpu)"
    assert "GB free" in said["disk"]
    assert said["adapter file"] == "0.11 MB"
    assert not (tmp_path / "run").exists()


def test_segmentation_would_run(
    site: dict[str, Any], files, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = {"feature_size": 4, "adapter": str(files.adapters[0]), "labels": {"background": 0, "ball": 1}}
    assert dry_run(train_config("essa_segmentation"), site | own) == 0
    assert lines(capsys)["images"] == "training 3, validation 1"
    assert not (tmp_path / "run").exists()


def test_classification_of_an_npz_file_would_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for split, count in {"train": 6, "val": 4}.items():
        arrays[f"{split}_images"] = np.random.default_rng(count).integers(0, 255, (count, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count)[:, None] % 2
    np.savez(tmp_path / "images.npz", **arrays)
    configs = bundle_folder("essa_classification") / "configs"
    files = [str(configs / f"{name}.yaml") for name in ("train", "start_random", "images_2d")]
    values = WIDTH | {"img_size": [8, 8], "datalist": str(tmp_path / "images.npz"), "output_dir": str(tmp_path / "run")}
    assert dry_run(files, values | {"max_epochs": 3, "batch_size": 3}) == 0
    said = lines(capsys)
    assert (said["images"], said["classes (images)"]) == ("8 x 8 pixels", "0 (5), 1 (5)")
    assert said["estimate"].startswith("6 steps, about ")
    assert not (tmp_path / "run").exists()


def test_data_with_errors_stop_it_before_anything_is_built(
    site: dict[str, Any], volumes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    damaged = shutil.copytree(volumes, tmp_path / "damaged")
    nib.save(nib.Nifti1Image(np.zeros((32, 32, 32), np.int16), np.eye(4)), damaged / "case1.nii.gz")
    values = site | {"dataset_dir": str(damaged), "pretrained": "none.pt"}
    assert dry_run(train_config("essa_ssa"), values) == 1
    out = capsys.readouterr().out
    assert "error: case1.nii.gz (image): every voxel is 0" in out
    assert "the data has errors, so nothing was built" in out


def test_only_the_sections_in_use_are_checked(
    site: dict[str, Any], volumes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    damaged = shutil.copytree(volumes, tmp_path / "damaged")
    nib.save(nib.Nifti1Image(np.zeros((32, 32, 32), np.int16), np.eye(4)), damaged / "case3.nii.gz")  # validation
    assert dry_run(train_config("essa_ssa"), site | {"dataset_dir": str(damaged)}) == 0


def test_sections_are_found_by_their_items(
    site: dict[str, Any], volumes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(volumes, tmp_path / "nested"))
    datalist = json.loads((folder / "dataset.json").read_text())
    cases = [item["image"] for item in datalist["training"]]
    datalist = {"a": {"unlabelled": cases[:2]}, "b": {"unlabelled": [{"image": cases[2], "fold": 0}]}}
    (folder / "dataset.json").write_text(json.dumps(datalist), encoding="utf-8")
    values = site | {"dataset_dir": str(folder)}
    assert dry_run(train_config("essa_ssa"), values | {"section": "a#unlabeled"}) == 0
    assert lines(capsys)["images"] == "a#unlabelled 2"
    assert dry_run(train_config("essa_ssa"), values | {"section": "b#unlabelled[fold=0]"}) == 0
    assert lines(capsys)["images"] == "b#unlabelled 1"


def test_a_disk_that_is_too_small_is_an_error(
    site: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert dry_run(train_config("essa_ssa"), site) == 1
    assert lines(capsys)["disk"].startswith("about 0.04 GB needed, 0.0 GB free at ")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pretrained": "none.pt"}, "none.pt: no such weight file"),
        ({"pretrained": None}, "no pretrained weights: APLA would freeze random tensors"),
        ({"section": "trainning"}, "no section 'trainning'"),
        ({"img_size": [33, 32, 32]}, "multiples of"),
        ({"in_channels": 2}, "in_channels"),
    ],
)
def test_what_would_stop_the_run_stops_it_in_one_line(
    wrong: dict[str, Any], message: str, site: dict[str, Any], monai_essa, tmp_path: Path
) -> None:
    options = [text for key, value in (site | wrong).items() if value is not None for text in (f"--{key}", value)]
    given = monai_essa("run", "--dry-run", "--config_file", train_config("essa_ssa")[0], *options)
    assert given.code == 1
    assert len(given.err.splitlines()) == 1 and message in given.err
    assert not (tmp_path / "run").exists()


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.yaml: no such config"):
        dry_run([str(tmp_path / "none.yaml")], {})


def test_a_config_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="has no 'datalist'; --dry-run is for a train.yaml of monai_essa"):
        dry_run([str(bundle_folder("essa_ssa") / "configs" / "inference.yaml")], {})


@pytest.mark.gpu
def test_memory_is_printed_on_cuda(site: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(train_config("essa_ssa"), site | {"device": "$torch.device('cuda')"}) == 0
    amount, unit = lines(capsys)["memory"].split()[:2]
    assert float(amount) > 0 and unit == "GB"


def test_real_cases_would_run(site: dict[str, Any], hippocampus_tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(train_config("essa_ssa"), site | {"dataset_dir": str(hippocampus_tiny)}) == 0
    assert lines(capsys)["images"] == "training 10"
