# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The bundle that a study exports passes what the model zoo of MONAI asks of a contribution."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

from monai_essa.study.export import export_study
from tests.bundles.test_properties import HEADINGS, INFERENCE_IDS, TRAIN_IDS
from tests.cli.conftest import files, finished_run, segmentation_runs, volumes
from tests.report.study.conftest import fabricated_study

__all__ = ["fabricated_study", "files", "finished_run", "segmentation_runs", "volumes"]

LARGEST = 25 << 20  # bytes; a larger file belongs into large_files.yml
PERSONAL = re.compile(r"/(?:home|Users|root|tmp|mnt|work)/\w+")
METADATA = ("name", "task", "description", "authors", "copyright", "intended_use", "references", "data_source")
METADATA += ("data_type", "image_classes", "label_classes", "pred_classes", "required_packages_version", "changelog")


@pytest.fixture
def bundle(fabricated_study: Callable[..., Path], segmentation_runs: tuple[Path, Path]) -> Path:
    folder = fabricated_study("segmentation")
    return export_study(folder, "ssa", segmentation_runs[0]) / "adapted_segmentation"


def config(bundle: Path, name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / name))
    return parser


def test_its_files_are_those_of_the_zoo_and_none_is_large_or_names_a_place(bundle: Path) -> None:
    wanted = ("LICENSE", "docs/README.md", "docs/data_license.txt", "models/model.pt")
    wanted += tuple(f"configs/{name}" for name in ("metadata.json", "train.yaml", "inference.yaml", "logging.conf"))
    assert [name for name in wanted if not (bundle / name).is_file()] == []
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", bundle.name)
    for path in (path for path in bundle.rglob("*") if path.is_file()):
        assert path.stat().st_size <= LARGEST, path
        if path.suffix not in (".pt", ".safetensors", ".png"):
            assert not PERSONAL.search(path.read_text(encoding="utf-8")), path


def test_the_ids_are_there(bundle: Path) -> None:
    for file, ids in (("train.yaml", TRAIN_IDS), ("inference.yaml", INFERENCE_IDS)):
        assert [name for name in ids if name not in config(bundle, file)] == []
    text = (bundle / "configs" / "inference.yaml").read_text(encoding="utf-8")
    assert "monai_essa." not in text, "inference needs MONAI alone"


def test_the_metadata_are_complete_and_speak_of_the_weights(bundle: Path) -> None:
    path = bundle / "configs" / "metadata.json"
    verify_metadata(str(path), filepath=Path(__file__).with_name("metadata_schema.json"))
    metadata = json.loads(path.read_text(encoding="utf-8"))
    assert [key for key in METADATA if not metadata.get(key)] == []
    assert metadata["version"] in metadata["changelog"]
    labels = config(bundle, "inference.yaml").get_parsed_content("labels")
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert channels == {str(number): name for name, number in labels.items()}
    assert metadata["name"] == bundle.name and "no weights" not in metadata["description"]


def test_the_readme_follows_the_template_and_states_the_performance(bundle: Path) -> None:
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    title, *headings = re.findall(r"^#+ \**(.+?)\**$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    assert title == bundle.name
    assert [heading for heading in headings if heading in HEADINGS] == list(HEADINGS)
    performance = text.partition("## **Performance**")[2].partition("\n## ")[0]
    assert "- Expected on a new patient of this site: 0." in performance
    assert "was not tested" in performance
    licence = (bundle / "docs" / "data_license.txt").read_text(encoding="utf-8")
    assert not [said for said in (text, licence) if "no weights" in said.partition("If you have")[0]]


def test_monai_finds_every_property_and_the_verbs_take_it(bundle: Path, tmp_path: Path) -> None:
    inference, meta = bundle / "configs" / "inference.yaml", str(bundle / "configs" / "metadata.json")
    values = {"bundle_root": str(bundle), "dataset_dir": str(tmp_path), "output_dir": str(tmp_path)}
    workflow = ConfigWorkflow(str(inference), meta, workflow_type="infer", logging_file=False, **values)
    workflow.initialize()
    assert workflow.check_properties() == []
    verify_net_in_out("network_def", meta, str(inference), device="cpu")  # the size is that of the metadata
    size = json.loads(Path(meta).read_text(encoding="utf-8"))["network_data_format"]["inputs"]["image"]["spatial_shape"]
    exported = tmp_path / "model.ts"
    command: dict[str, Any] = {"config_file": str(inference), "meta_file": meta, "use_trace": True}
    ckpt_export("network_def", str(exported), str(bundle / "models" / "model.pt"), input_shape=[1, 1, *size], **command)
    with torch.no_grad():
        assert torch.jit.load(exported)(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


def test_training_goes_on_from_its_weights(bundle: Path, volumes: Path, tmp_path: Path) -> None:
    values = {"bundle_root": str(bundle), "dataset_dir": str(volumes), "output_dir": str(tmp_path / "run")}
    train, meta = str(bundle / "configs" / "train.yaml"), str(bundle / "configs" / "metadata.json")
    workflow = ConfigWorkflow(train, meta, workflow_type="train", logging_file=False, cache_rate=0.0, **values)
    workflow.initialize()
    assert workflow.check_properties() == []
