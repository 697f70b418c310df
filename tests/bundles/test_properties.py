# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What MONAI and its model zoo ask of a bundle: properties, ids, metadata and the headings of the README."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from monai.utils import BundleProperty, BundlePropertyConfig

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = ("essa_ssa", "essa_tpp", "essa_segmentation", "essa_classification")
SUPERVISED = ("essa_segmentation", "essa_classification")
CONFIGS = [
    *((name, kind) for name in NAMES for kind in (["train.yaml"], ["inference.yaml"])),
    *((name, ["train.yaml", "evaluate.yaml"]) for name in SUPERVISED),
    *((name, ["train.yaml", "reconstruct.yaml"]) for name in ("essa_ssa", "essa_tpp")),
]
# Of CONTRIBUTING.md of the model zoo.
TRAIN_IDS = (
    *("bundle_root", "device", "dataset_dir", "output_dir", "val_interval"),
    *("train#trainer", "train#trainer#max_epochs", "train#dataset", "train#dataset#data", "train#handlers"),
    *("train#preprocessing", "train#inferer", "validate#preprocessing", "validate#key_metric"),
    *("validate#evaluator", "validate#handlers", "validate#dataset", "validate#dataset#data"),
)
INFERENCE_IDS = ("bundle_root", "device", "dataset_dir", "output_dir", "network_def", "inferer")
# Of docs/readme_template.md of the model zoo, in this order; the optional ones too, since each has something to say.
HEADINGS = (
    *("Authors", "Tags", "Model Description", "Data", "Preprocessing", "Performance"),
    *("System Configuration", "Limitations", "Citation Info", "References"),
)


def workflow(bundle: str, files: list[str]) -> ConfigWorkflow:
    kind = "infer" if files == ["inference.yaml"] else "train"
    configs = [str(BUNDLES / bundle / "configs" / name) for name in files]
    config = ConfigWorkflow(configs, logging_file=False, workflow_type=kind)
    config.parser.parse()
    return config


@pytest.mark.parametrize(("bundle", "files"), CONFIGS, ids=lambda value: value if isinstance(value, str) else value[-1])
def test_monai_finds_every_property(bundle: str, files: list[str]) -> None:
    """MONAI's own check of the optional ids, and of the required ones by name: nothing is instantiated."""
    config = workflow(bundle, files)
    infer = files == ["inference.yaml"]
    properties: dict[str, dict[Any, Any]] = (InferProperties if infer else TrainProperties) | MetaProperties
    assert config.properties == properties
    missing = [
        name
        for name, entry in properties.items()
        if entry[BundleProperty.REQUIRED] and entry[BundlePropertyConfig.ID] not in config.parser
    ]
    wrong = [
        name
        for name, entry in properties.items()
        if not entry[BundleProperty.REQUIRED] and not config._check_optional_id(name=name, property=entry)
    ]
    assert (missing, wrong) == ([], [])


def test_the_check_finds_a_wrong_id() -> None:
    config = workflow("essa_segmentation", ["train.yaml"])
    config.parser["validate#evaluator#val_handlers"] = "@validate#other"
    entry = TrainProperties["val_handlers"]
    assert not config._check_optional_id(name="val_handlers", property=entry)


@pytest.mark.parametrize("bundle", NAMES)
def test_the_ids_of_the_model_zoo_are_there(bundle: str) -> None:
    for file, ids in (("train.yaml", TRAIN_IDS), ("inference.yaml", INFERENCE_IDS)):
        parser = ConfigParser()
        parser.read_config(str(BUNDLES / bundle / "configs" / file))
        assert [name for name in ids if name not in parser] == []
    interval = [handler for handler in parser_handlers(bundle) if handler["_target_"] == "ValidationHandler"]
    assert [handler["interval"] for handler in interval] == ["@val_interval"]


def parser_handlers(bundle: str) -> list[dict[str, Any]]:
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / bundle / "configs" / "train.yaml"))
    return parser["train#handlers"]


@pytest.mark.parametrize("bundle", NAMES)
def test_the_metadata_are_those_of_the_schema_and_the_zoo(bundle: str) -> None:
    path = BUNDLES / bundle / "configs" / "metadata.json"
    verify_metadata(str(path), filepath=Path(__file__).with_name("metadata_schema.json"))
    metadata = json.loads(path.read_text(encoding="utf-8"))
    wanted = ("name", "intended_use", "references", "data_source", "data_type", "image_classes", "pred_classes")
    assert [key for key in (*wanted, "required_packages_version") if not metadata.get(key)] == []
    assert (bundle in SUPERVISED) == ("label_classes" in metadata)
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize("bundle", NAMES)
def test_the_readme_has_the_headings_of_the_zoo_in_their_order(bundle: str) -> None:
    text = (BUNDLES / bundle / "docs" / "README.md").read_text(encoding="utf-8")
    title, *headings = re.findall(r"^#+ \**(.+?)\**$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    name = json.loads((BUNDLES / bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))["name"]
    assert title == name
    assert [heading for heading in headings if heading in HEADINGS] == list(HEADINGS)
