# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from fastapi import HTTPException

from monai_essa.label import EssaLabelApp


def test_every_bundle_of_the_folder_is_served_and_trained(app: Path, studies: Path) -> None:
    shutil.copytree(app / "model" / "ball_segmentation", app / "model" / "other")
    shutil.copytree(app / "model" / "other" / "configs", app / "model" / "without_weights" / "configs")
    info = EssaLabelApp(str(app), str(studies), {}).info()
    assert list(info["models"]) == ["ball_segmentation", "other"]
    assert list(info["trainers"]) == ["ball_segmentation_ssa", "ball_segmentation", "other_ssa", "other"]
    assert "val_split" in info["trainers"]["other"]["config"]
    assert "val_split" not in info["trainers"]["other_ssa"]["config"]


def test_a_bundle_with_the_name_of_anothers_ssa_is_refused(app: Path, studies: Path) -> None:
    shutil.copytree(app / "model" / "ball_segmentation", app / "model" / "ball_segmentation_ssa")
    with pytest.raises(ValueError, match="rename the folder"):
        EssaLabelApp(str(app), str(studies), {})


@pytest.mark.parametrize("name", ["$x", "@network", "%x", "a#b"])
def test_a_bundle_with_a_name_that_is_code_is_refused(app: Path, studies: Path, name: str) -> None:
    (app / "model" / "ball_segmentation").rename(app / "model" / name)
    with pytest.raises(ValueError, match="rename the bundle's folder"):
        EssaLabelApp(str(app), str(studies), {})


def test_all_trainers_are_told_at_once_as_3d_slicer_does(app: Path, studies: Path) -> None:
    served = EssaLabelApp(str(app), str(studies), {})
    served.check_training(None, {"client_id": None})
    served.check_training(None, {"client_id": "c", "ball_segmentation": {"val_split": 0.5}})
    with pytest.raises(ValueError, match="field 'val_split'"):
        served.check_training(None, {"ball_segmentation": {"val_split": 5}})
    with pytest.raises(ValueError, match="unknown field 'val_split'"):
        served.check_training(None, {"ball_segmentation_ssa": {"val_split": 0.5}})
    served.check_scoring(None, {"client_id": None, "epistemic": {"device": "cpu"}})


def test_what_was_said_to_all_trainers_is_no_field_of_one(app: Path, studies: Path) -> None:
    """MONAI Label puts the fields for every trainer into the request of each."""
    served = EssaLabelApp(str(app), str(studies), {})
    with pytest.raises(ValueError, match="no labels"):
        served.train({"model": "ball_segmentation", "max_epochs": 1, "ball_segmentation": {"max_epochs": 1}})
    with pytest.raises(ValueError, match="unknown field 'other'"):
        served.train({"model": "ball_segmentation", "other": {}})


@pytest.mark.parametrize("damage", ["history.json", "001.safetensors"])
def test_a_damaged_adapter_leaves_the_app_at_work(app: Path, studies: Path, damage: str, tmp_path: Path) -> None:
    served = EssaLabelApp(str(app), str(studies), {})
    file = tmp_path / "adapter.safetensors"
    save_file({"network:out": torch.zeros(1)}, file, metadata={"monai_essa": "{}"})
    served.adapters["ball_segmentation"].add("site", file, {"labels": 3})
    (app / "model" / "ball_segmentation" / "adapters" / "site" / damage).write_bytes(b"")
    info = served.info()
    sites = ["site"] if damage == "history.json" else []
    assert info["models"]["ball_segmentation"]["config"]["adapter"] == ["latest", *sites, "base"]
    assert len(info["train_stats"]["ball_segmentation"]["problems"]) == 1


def test_a_folder_without_weights_is_refused(app: Path, studies: Path) -> None:
    (app / "model" / "ball_segmentation" / "models" / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match="holds no bundle with models/model.pt"):
        EssaLabelApp(str(app), str(studies), {})


def test_inference_reads_no_other_file_of_the_server(app: Path, studies: Path, truth: Path) -> None:
    served = EssaLabelApp(str(app), str(studies), {})
    for image, status in ((str(truth / "case_00.nii.gz"), 400), ("no_such_case", 404)):
        with pytest.raises(HTTPException) as caught:
            served.infer({"model": "ball_segmentation", "image": image})
        assert caught.value.status_code == status
