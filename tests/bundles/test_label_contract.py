# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What MONAI Label reads of a segmentation bundle, without MONAI Label."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.handlers import CheckpointLoader
from monai.transforms import Invertd

RunBundle = Callable[..., ConfigWorkflow]
BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "essa_segmentation"


@pytest.fixture
def inference(open_bundle: RunBundle, volumes: Path) -> ConfigWorkflow:
    workflow = open_bundle("essa_segmentation", "inference.yaml", dataset_dir=volumes)
    workflow.initialize()
    return workflow


def test_the_first_input_is_image_and_the_first_output_pred() -> None:
    form = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))["network_data_format"]
    assert next(iter(form["inputs"])) == "image"
    assert next(iter(form["outputs"])) == "pred"
    assert form["outputs"]["pred"]["channel_def"]["0"] == "background"
    assert len(form["inputs"]["image"]["spatial_shape"]) == 3


def test_the_keys_of_inference_are_there(inference: ConfigWorkflow) -> None:
    for name in ("network_def", "preprocessing", "postprocessing", "inferer", "device", "bundle_root"):
        assert inference.parser.get_parsed_content(name) is not None
    assert any(isinstance(step, Invertd) for step in inference.parser.get_parsed_content("postprocessing").transforms)


def test_the_text_that_the_server_puts_under_image_path_survives(inference: ConfigWorkflow, volumes: Path) -> None:
    """Spacingd would take it for the metadata of an image, and the server's writer needs it afterwards."""
    prepare = inference.parser.get_parsed_content("preprocessing")
    path = str(volumes / "image_00.nii.gz")
    served, plain = prepare({"image": path, "image_path": path}), prepare({"image": path})
    assert served["image_path"] == path
    assert torch.equal(served["image"], plain["image"])


def test_training_takes_what_the_server_sets(stages, volumes: Path, open_bundle: RunBundle, tmp_path: Path) -> None:
    """There is no data list; items, epochs and one more handler are given, and the last model.pt is loaded first."""
    items = [{name: str(volumes / f"{name}_{number:02d}.nii.gz") for name in ("image", "label")} for number in range(3)]
    values: dict[str, Any] = {"output_dir": tmp_path / "run", "dataset_dir": tmp_path, "max_epochs": 100}
    files = {"pretrained": stages.pretrained / "model.pt", "adapter": stages.adapted / "adapter.safetensors"}
    workflow = open_bundle("essa_segmentation", "train.yaml", **values, **files)
    load = {"_target_": CheckpointLoader.__name__, "load_dict": {"model": "$@network"}, "strict": False}
    load["load_path"] = str(stages.segmented / "model.pt")
    workflow.parser["train#handlers"] = [load, *workflow.parser["train#handlers"]]
    workflow.parser["train#dataset#data"], workflow.parser["validate#dataset#data"] = items[:2], items[2:]
    workflow.parser["train#trainer#max_epochs"] = 1
    workflow.initialize()
    assert workflow.parser.get_parsed_content("train#trainer").state.max_epochs == 1
    assert workflow.parser.get_parsed_content("total_steps") == 1
    workflow.run()

    assert json.loads((tmp_path / "run" / "run.json").read_text())["items"] == {"training": 2, "validation": 1}
    start, end = (torch.load(run / "model.pt", weights_only=True) for run in (stages.segmented, tmp_path / "run"))
    change = (end["out.conv.conv.weight"] - start["out.conv.conv.weight"]).abs().max()
    assert 0 < change < 1.1e-3  # one step of AdamW moves a weight by the learning rate at most
