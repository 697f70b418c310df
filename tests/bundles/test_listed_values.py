# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a datalist says is what a run does: voxel values that stand for ids, files that are channels, patients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_essa.cli.run_commands import dry_run

RunBundle = Callable[..., ConfigWorkflow]
START: dict[str, Any] = {"method": {"_target_": "monai_essa.methods.FullTuning"}, "start": "random"}
SEGMENTATION = Path(__file__).resolve().parents[2] / "bundles" / "essa_segmentation" / "configs" / "train.yaml"


@pytest.fixture
def listed(volumes: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a datalist over two fabricated volumes whose labels are 0, 1 and 255, with further fields."""

    def write(**fields: Any) -> Path:
        items = []
        for number in range(2):
            label = np.asarray(nib.load(volumes / f"label_{number:02d}.nii.gz").dataobj).astype(np.float32)
            nib.save(
                nib.Nifti1Image(np.where(label == 2, 255, label * 0.99999994), np.eye(4)), tmp_path / f"{number}.nii"
            )
            image = str(volumes / f"image_{number:02d}.nii.gz")
            items.append({"image": [image, image], "label": f"{number}.nii", "patient": "p"})
        content = {"training": items, "validation": items[:1]} | fields
        (tmp_path / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize("where", ["list", "run"])
def test_label_values_are_mapped_in_training_and_validation(
    where: str, listed: Callable[..., Path], open_bundle: RunBundle
) -> None:
    folder = listed(**({"label_map": {"255": 2}} if where == "list" else {}))
    values = {"label_map": {255: 2}} if where == "run" else {}
    workflow = open_bundle("essa_segmentation", "train.yaml", dataset_dir=folder, in_channels=2, **values, **START)
    workflow.initialize()
    for part in ("train", "validate"):
        item = workflow.parser.get_parsed_content(f"{part}#dataset")[0]
        item = item[0] if isinstance(item, list) else item
        assert item["image"].shape[0] == 2
        assert set(torch.unique(item["label"]).tolist()) <= {0.0, 1.0, 2.0}


def test_a_run_with_several_files_an_image_and_mapped_labels_ends(
    listed: Callable[..., Path], run_bundle: RunBundle, tmp_path: Path
) -> None:
    folder = listed(label_map={"255": 2})
    run_bundle(
        "essa_segmentation", "train.yaml", dataset_dir=folder, in_channels=2, output_dir=tmp_path / "run", **START
    )
    assert (tmp_path / "run" / "model.pt").exists()


def test_without_a_label_map_the_value_is_named(listed: Callable[..., Path], refused: Callable[..., str]) -> None:
    line = refused("essa_segmentation", dataset_dir=listed(), in_channels=2, **START)
    assert "0.nii: expected ids 0 to 2, got 255" in line


def test_a_dry_run_checks_with_the_label_map_of_the_run(
    listed: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = listed(labels={"background": 0, "anterior": 1, "posterior": 2})
    values = {"dataset_dir": str(folder), "output_dir": str(tmp_path / "run")}
    assert dry_run([str(SEGMENTATION)], values) == 1
    assert "(label): ids [255] are not among the datalist's labels [0, 1, 2]" in capsys.readouterr().out
    nan = nib.Nifti1Image(np.full((36, 34, 40), np.nan, np.float32), np.eye(4))
    nib.save(nan, folder / "nan.nii")  # so that the check ends the dry run, now without an error about ids
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    content["training"][0]["image"] = "nan.nii"
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    assert dry_run([str(SEGMENTATION)], values | {"label_map": {255: 2}}) == 1
    assert "ids [255]" not in capsys.readouterr().out


def test_each_nth_patient_of_the_list_validates_the_adaptation(
    listed: Callable[..., Path], open_bundle: RunBundle
) -> None:
    folder = listed()
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    image = content["training"][0]["image"][0]
    content["unlabeled"] = [{"image": image, "patient": "a"}, {"image": image, "patient": "b"}]
    content["unlabeled"].insert(1, {"image": content["training"][1]["image"][0], "patient": "a"})
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    for bundle in ("essa_ssa", "essa_tpp"):
        parser = open_bundle(bundle, "train.yaml", dataset_dir=folder, hold_out=10).parser
        assert len(parser.get_parsed_content("training_items")) == 1
        assert len(parser.get_parsed_content("validation_items")) == 2
