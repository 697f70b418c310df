# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Runs of the bundles in this process, on twelve small fabricated volumes and by networks that take a second."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SHAPE = (36, 34, 40)
LABELS = {"background": 0, "anterior": 1, "posterior": 2}
# What makes a bundle small: a ViT of 0.4 million parameters and crops of 2 x 2 x 2 patches.
TINY = {"img_size": [32, 32, 32], "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
VALUES: dict[str, dict[str, Any]] = {
    "essa_ssa": TINY | {"num_layers": 12},
    "essa_tpp": TINY | {"num_layers": 12},
    "essa_segmentation": TINY | {"feature_size": 8, "labels": LABELS},
    "essa_classification": TINY | {"num_layers": 12, "feature_size": 8, "batch_size": 2},
}
TRAINING = {"max_epochs": 1, "cache_rate": 0.0}

RunBundle = Callable[..., ConfigWorkflow]
Refused = Callable[..., str]


@dataclass(frozen=True)
class Stages:
    """Run folders of the main job: pre-trained from nothing, adapted by APLA, segmented from that adapter."""

    pretrained: Path
    adapted: Path
    segmented: Path


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset.json: four labelled volumes for training, two for validation, six without a label."""
    folder = tmp_path_factory.mktemp("volumes")
    datalist: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "unlabeled": []}
    for number, section in enumerate(["training"] * 4 + ["validation"] * 2 + ["unlabeled"] * 6):
        image, label = _ellipsoid(number)
        item = {"image": f"image_{number:02d}.nii.gz"}
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / item["image"])
        if section != "unlabeled":
            item["label"] = f"label_{number:02d}.nii.gz"
            nib.save(nib.Nifti1Image(label, np.eye(4)), folder / item["label"])
        datalist[section].append(item)
    (folder / "dataset.json").write_text(json.dumps(datalist), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def classes(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datalist of the labelled volumes with a class each: four for training, two for validation."""
    path = tmp_path_factory.mktemp("classes") / "dataset.json"
    items = [{"image": str(volumes / f"image_{number:02d}.nii.gz"), "label": number % 2} for number in range(6)]
    path.write_text(json.dumps({"training": items[:4], "validation": items[4:]}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def open_bundle() -> RunBundle:
    """Opens a tiny variant of a bundle: name, config files, and values over those of the configs.

    Measuring the cost of a step takes four fifths of such a run, so that only runs opened with ``costed`` measure it:
    one for each bundle and each kind of network.
    """

    def open_(name: str, *files: str, costed: bool = False, **values: Any) -> ConfigWorkflow:
        training = "train.yaml" in files
        workflow = ConfigWorkflow(
            [str(BUNDLES / name / "configs" / file) for file in files],
            logging_file=False,
            workflow_type="train" if training else "infer",
            **(VALUES[name] | (TRAINING if training else {}) | {key: _plain(value) for key, value in values.items()}),
        )
        if training and not costed:
            handlers = workflow.parser["train#handlers"]
            workflow.parser["train#handlers"] = [handler for handler in handlers if "CostFile" not in str(handler)]
        return workflow

    return open_


@pytest.fixture(scope="session")
def run_bundle(open_bundle: RunBundle) -> RunBundle:
    """Opens a tiny variant of a bundle and runs it to its end."""

    def run(name: str, *files: str, **values: Any) -> ConfigWorkflow:
        workflow = open_bundle(name, *files, **values)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return workflow

    return run


@pytest.fixture(scope="session")
def stages(volumes: Path, run_bundle: RunBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """The main job with its costs, once for all tests; they must leave its folders alone, which the end checks."""
    folder = tmp_path_factory.mktemp("stages")
    done = Stages(folder / "pretrained", folder / "adapted", folder / "segmented")
    hook = sys.excepthook
    data = {"dataset_dir": volumes, "costed": True}
    run_bundle("essa_ssa", "train.yaml", "method_full.yaml", output_dir=done.pretrained, **data)
    base = data | {"pretrained": done.pretrained / "model.pt"}
    run_bundle("essa_ssa", "train.yaml", output_dir=done.adapted, **base)
    adapter = done.adapted / "adapter.safetensors"
    run_bundle("essa_segmentation", "train.yaml", output_dir=done.segmented, adapter=adapter, **base)
    sys.excepthook = hook
    before = _contents(folder)
    yield done
    assert _contents(folder) == before


@pytest.fixture
def refused(run_bundle: RunBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a bundle that has to fail, in a folder with an earlier result; gives the last line that the user sees."""

    def run(bundle: str, **values: Any) -> str:
        output = tmp_path / "run"
        output.mkdir(exist_ok=True)
        (output / "model.pt").write_text("earlier", encoding="utf-8")
        with pytest.raises(Exception) as caught:
            run_bundle(bundle, "train.yaml", output_dir=output, **values)
        assert (output / "model.pt").read_text(encoding="utf-8") == "earlier"
        assert {path.name for path in output.iterdir()} <= {"cost.json", "model.pt", "run.json", "tensorboard"}
        sys.excepthook(caught.type, caught.value, caught.tb)
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ")
        return line

    return run


def _ellipsoid(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ellipsoid in noise (int16), and its front and back half as labels 1 and 2."""
    rng = np.random.default_rng(number)
    centre, radii = np.array(SHAPE) / 2 + rng.uniform(-3, 3, 3), rng.uniform(7, 11, 3)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    inside = (((grid - centre) / radii) ** 2).sum(-1) < 1
    image = 200 + 40 * rng.standard_normal(SHAPE) + 300 * inside
    return image.astype(np.int16), np.where(grid[..., 1] < centre[1], 1, 2).astype(np.uint8) * inside


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
