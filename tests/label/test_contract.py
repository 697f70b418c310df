# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""What MONAI Label's own app for bundles reads, sets and expects back, without MONAI Label."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import CopyItemsd, DeleteItemsd, Invertd, SaveImaged, Spacingd

from monai_essa.bundling.copy import BundleVariant, copy_bundle
from monai_essa.bundling.folder import bundle_folder

NETWORKS: dict[str, dict[str, Any]] = {
    "unetr": {"img_size": [32] * 3, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 8},
    "swin_unetr": {"img_size": [64] * 3, "feature_size": 12},
    "segresnet": {"img_size": [32] * 3, "feature_size": 8},
}


def parsed(file: Path, root: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(file))
    parser["bundle_root"] = str(root)
    return parser


@pytest.mark.parametrize("network", NETWORKS)
def test_every_copy_has_the_names_that_inference_reads(network: str, tmp_path: Path) -> None:
    variant = BundleVariant("liver_segmentation", {"network": network}, NETWORKS[network])
    folder = copy_bundle(bundle_folder("essa_segmentation"), tmp_path, variant)
    form = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))["network_data_format"]
    assert (next(iter(form["inputs"])), next(iter(form["outputs"]))) == ("image", "pred")
    assert form["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "foreground"}
    assert form["inputs"]["image"]["spatial_shape"] == NETWORKS[network]["img_size"]

    parser = parsed(folder / "configs" / "inference.yaml", folder)
    for name in ("network_def", "inferer", "device"):
        assert parser.get_parsed_content(name) is not None
    before = parser.get_parsed_content("preprocessing").transforms
    after = parser.get_parsed_content("postprocessing").transforms
    # The text under image_path is out of Spacingd's way, and back for the server's writer.
    places = [type(step) for step in before]
    assert places.index(CopyItemsd) < places.index(DeleteItemsd) < places.index(Spacingd)
    assert places[places.index(Spacingd) + 1] is CopyItemsd
    assert [type(step) for step in after if isinstance(step, (Invertd, SaveImaged))] == [Invertd, SaveImaged]


@pytest.mark.parametrize("network", NETWORKS)
def test_every_copy_has_the_ids_that_training_overrides(network: str, tmp_path: Path) -> None:
    variant = BundleVariant("liver_segmentation", {"network": network, "start": "bundle"}, NETWORKS[network])
    folder = copy_bundle(bundle_folder("essa_segmentation"), tmp_path, variant)
    parser = parsed(folder / "configs" / "train.yaml", folder)
    names = ("network", "device", "train#trainer#max_epochs", "train#dataset#data", "validate#dataset#data")
    assert all(name in parser for name in names)
    assert all("_target_" in handler for handler in parser["train#handlers"])
    assert parser.get_parsed_content("pretrained") == str(folder / "models" / "model.pt")
    assert parser.get_parsed_content("output_dir") == str(folder / "runs" / "001")


def test_a_copy_without_weights_keeps_the_start_of_the_bundle(tmp_path: Path) -> None:
    folder = copy_bundle(bundle_folder("essa_segmentation"), tmp_path, BundleVariant("mine"))
    assert parsed(folder / "configs" / "train.yaml", folder)["start"] == "adapter"


def test_model_pt_holds_plain_tensors_under_the_names_of_the_network(trained_bundle: Path) -> None:
    """MONAI Label loads it with weights_only and without strict: a wrong name would only warn."""
    state = torch.load(trained_bundle / "models" / "model.pt", weights_only=True)
    network = parsed(trained_bundle / "configs" / "inference.yaml", trained_bundle).get_parsed_content("network_def")
    assert set(state) == set(network.state_dict())
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.slow  # trains twice
def test_training_twice_publishes_twice_and_keeps_what_was_there(
    bundle: Path, studies: Path, truth: Path, train_as_the_sample_app: Callable[[Path, list[dict[str, str]]], None]
) -> None:
    items = [
        {"image": str(studies / name), "label": str(truth / name)} for name in ("case_00.nii.gz", "case_01.nii.gz")
    ]
    models = bundle / "models"
    before = (models / "model.pt").read_bytes()
    train_as_the_sample_app(bundle, items)
    once = (models / "model.pt").read_bytes()
    train_as_the_sample_app(bundle, items)
    assert len({before, once, (models / "model.pt").read_bytes()}) == 3
    assert (models / "model_000.pt").read_bytes() == before
    assert (models / "model_001.pt").read_bytes() == once
    assert (models / "model_002.pt").read_bytes() == (models / "model.pt").read_bytes()
    assert json.loads((bundle / "runs" / "002" / "run.json").read_text())["status"] == "finished"


@pytest.fixture
def train_as_the_sample_app() -> Callable[[Path, list[dict[str, str]]], None]:
    """One epoch with the overrides of MONAI Label 0.8.5's BundleTrainTask."""

    def train(bundle: Path, items: list[dict[str, str]]) -> None:
        file = bundle / "configs" / "train.yaml"
        parser = ConfigParser()
        parser.read_config(str(file))
        handlers = parser["train#handlers"]
        load = {"_target_": "CheckpointLoader", "load_path": str(bundle / "models" / "model.pt"), "strict": False}
        handlers.insert(0, load | {"load_dict": {"model": "$@network"}})
        values = {
            "bundle_root": str(bundle),
            "train#trainer#max_epochs": 1,
            "train#dataset#data": items[:1],
            "validate#dataset#data": items[1:],
            "device": "cpu",
            "train#handlers": handlers,
        }
        workflow = ConfigWorkflow(str(file), logging_file=False, workflow_type="train", **values)
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    return train
