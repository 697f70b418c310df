# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tiny volumes, a base network and finished runs, made without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn as nn
from monai.bundle import ConfigParser
from monai.networks.nets import ViT

from monai_essa import adapt, merge, save_adapter
from monai_essa.bundling.copy import BundleVariant, copy_bundle
from monai_essa.bundling.folder import bundle_folder
from monai_essa.cli import main
from monai_essa.engines import finish_run
from monai_essa.methods import APLA

LABELS = {"background": 0, "ball": 1}
WIDTH = {"img_size": [32, 32, 32], "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
TINY: dict[str, dict[str, Any]] = {
    "essa_ssa": WIDTH,
    "essa_segmentation": WIDTH | {"feature_size": 4, "labels": LABELS},
}


@dataclass(frozen=True)
class Output:
    """What a command gave."""

    code: int
    out: str
    err: str


Monai = Callable[..., Output]


@pytest.fixture
def monai_essa(capsys: pytest.CaptureFixture[str]) -> Monai:
    """Runs a command in this process; every argument is turned into text."""

    def run(*arguments: object) -> Output:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Output(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset.json: three labelled volumes of 32 voxels a side for training, one for validation."""
    folder = tmp_path_factory.mktemp("volumes")
    datalist: dict[str, Any] = {"labels": {"0": "background", "1": "ball"}, "training": [], "validation": []}
    rng = np.random.default_rng(0)
    distance = np.linalg.norm(np.indices((32, 32, 32)) - 16, axis=0)
    for number, section in enumerate(["training"] * 3 + ["validation"]):
        ball = distance < 8 + number
        image = 100 * ball + 10 * rng.standard_normal(ball.shape) + 50
        item = {"image": f"case{number}.nii.gz", "label": f"case{number}_seg.nii.gz"}
        nib.save(nib.Nifti1Image(image.astype(np.int16), np.eye(4)), folder / item["image"])
        nib.save(nib.Nifti1Image(ball.astype(np.uint8), np.eye(4)), folder / item["label"])
        datalist[section].append(item)
    (folder / "dataset.json").write_text(json.dumps(datalist), encoding="utf-8")
    return folder


def tiny_vit() -> ViT:
    return ViT(1, [32] * 3, 16, hidden_size=48, mlp_dim=96, num_layers=12, num_heads=4, qkv_bias=True)


def train(network: nn.Module, seed: int) -> nn.Module:
    """Moves the tensors that learn, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network


@dataclass(frozen=True)
class Files:
    """Weights of a ViT, and two APLA adapters on them with what they merge to."""

    base: Path
    adapters: tuple[Path, Path]
    merged: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    base = tiny_vit().state_dict()
    torch.save(base, folder / "vit.pt")
    paths, merged = [], []
    for number in range(2):
        network = tiny_vit()
        network.load_state_dict(base)
        train(adapt(network, APLA()), number)
        card = {"spacing": [1.0, 1.0, 1.0], "intensity": "mr"}
        paths.append(save_adapter(network, folder / f"site_{number}.safetensors", card))
        merged.append(merge(network).state_dict())
    return Files(folder / "vit.pt", (paths[0], paths[1]), (merged[0], merged[1]))


@pytest.fixture(scope="session")
def finished_run(volumes: Path, files: Files) -> Callable[..., Path]:
    """Makes the folder of a finished run: its record and its results are those of the bundle, the training is not."""

    def make(bundle: str, folder: Path, seed: int = 0, **values: Any) -> Path:
        parser = ConfigParser()
        parser.read_config(str(bundle_folder(bundle) / "configs" / "train.yaml"))
        start = {"start": "encoder"} if bundle == "essa_segmentation" else {}
        own = {"dataset_dir": str(volumes), "output_dir": str(folder), "pretrained": str(files.base)}
        parser.update(TINY[bundle] | own | start | values)
        parser.get_parsed_content("record")
        network = train(parser.get_parsed_content("network"), seed)
        save_adapter(network, folder / "adapter.safetensors")
        torch.save(merge(network).state_dict(), folder / "model.pt")
        finish_run(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def segmentation_runs(
    finished_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Path]]:
    """Two finished runs of essa_segmentation from one base; the tests must leave them alone, which is checked."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(1)
    first = finished_run("essa_segmentation", folder / "site_a", seed=1)
    torch.manual_seed(1)
    second = finished_run("essa_segmentation", folder / "site_b", seed=2)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield first, second
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def values_of(bundle: str) -> list[str]:
    """The --args that make a bundle tiny."""
    return [f"{key}={value}" for key, value in TINY[bundle].items()]


@pytest.fixture
def unread_bundle(tmp_path: Path) -> Path:
    """A bundle whose weights nobody reads here."""
    folder = copy_bundle(bundle_folder("essa_segmentation"), tmp_path, BundleVariant("spleen"))
    (folder / "models").mkdir()
    (folder / "models" / "model.pt").write_text("weights", encoding="utf-8")
    (folder / "runs" / "001").mkdir(parents=True)
    return folder
