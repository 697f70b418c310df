# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""The classification bundle: from an adapter or from nothing to a plain classifier, its scores and probabilities."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.networks.nets import ViT
from PIL import Image

from monai_essa import load_adapter
from monai_essa.adapters.file import read_adapter
from monai_essa.anatomy import classification_network
from monai_essa.evaluation.run_scores import read_run

RunBundle = Callable[..., ConfigWorkflow]
Refused = Callable[..., str]
BUNDLE = "essa_classification"
CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / BUNDLE / "configs"
FLAT = {"img_size": [8, 8], "hidden_size": 24, "mlp_dim": 48, "num_layers": 2, "num_heads": 2, "batch_size": 4}

WITHOUT_MONAI_ESSA = """
import json, sys
sys.modules["monai_essa"] = None
from monai.bundle import run
run(**json.loads(sys.argv[1]))
"""


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "model.pt", weights_only=True)


def table(path: Path) -> list[list[str]]:
    return list(csv.reader(path.open(encoding="utf-8")))


@pytest.fixture(scope="module")
def classified(stages, classes: Path, run_bundle: RunBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a classifier that started from the adapter of essa_ssa."""
    folder, hook = tmp_path_factory.mktemp("classified"), sys.excepthook
    start = {"pretrained": stages.pretrained / "model.pt", "adapter": stages.adapted / "adapter.safetensors"}
    run_bundle(BUNDLE, "train.yaml", datalist=classes, output_dir=folder, costed=True, **start)
    sys.excepthook = hook
    return folder


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 8 x 8 pixels whose second class is brighter on one side; few to test, for the sake of the bootstrap."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("npz") / "images.npz"
    arrays: dict[str, np.ndarray] = {}
    for split, count in {"train": 16, "val": 8, "test": 6}.items():
        labels = np.arange(count) % 2
        images = rng.integers(0, 100, (count, 8, 8)) + 150 * labels[:, None, None] * (np.arange(8) > 3)
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels[:, None]}
    np.savez(path, **arrays)
    return path


def test_it_goes_on_from_the_adapter_relative_to_the_public_base(stages, classified: Path) -> None:
    first, second = (read_adapter(run / "adapter.safetensors") for run in (stages.adapted, classified))
    assert first.record["fingerprint"] == second.record["fingerprint"]
    assert first.record["methods"] == second.record["methods"]
    base, after = weights(stages.pretrained), weights(classified)
    changed = {name for name, tensor in base.items() if not torch.equal(tensor, after[f"encoder.{name}"])}
    assert changed == {f"blocks.{i}.attn.out_proj.{kind}" for i in range(12) for kind in ("weight", "bias")}


def test_the_merged_classifier_computes_what_the_adapted_one_does(stages, classified: Path) -> None:
    def build() -> torch.nn.Module:
        vit = ViT(1, [32] * 3, 16, hidden_size=48, mlp_dim=96, num_layers=12, num_heads=4, qkv_bias=True)
        return classification_network(vit, 2).eval()

    network, merged, image = build(), build(), torch.randn(2, 1, 32, 32, 32)
    network.encoder.load_state_dict(weights(stages.pretrained))
    merged.load_state_dict(weights(classified), strict=True)
    load_adapter(network, classified / "adapter.safetensors").eval()
    with torch.no_grad():
        torch.testing.assert_close(network(image), merged(image), atol=1e-5, rtol=1e-5)


def test_evaluation_writes_each_image_and_intervals(
    classified: Path, classes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    run = shutil.copytree(classified, tmp_path / "run")
    files, section = ("train.yaml", "evaluate.yaml"), "validation"
    run_bundle(BUNDLE, *files, datalist=classes, output_dir=run, validation_section=section)
    rows = table(run / "test" / "predictions.csv")
    assert rows[0] == ["image", "label", "negative", "positive"]
    assert [(Path(row[0]).name, row[1]) for row in rows[1:]] == [
        ("image_04.nii.gz", "negative"),
        ("image_05.nii.gz", "positive"),
    ]
    record = json.loads((run / "test" / "metrics.json").read_text(encoding="utf-8"))
    best = json.loads((run / "losses.jsonl").read_text(encoding="utf-8"))["validation"]["val_auc"]
    assert record["metrics"]["auc"]["value"] == best
    assert record["patients"] == 2
    assert list(read_run(run).scores.values()) == pytest.approx(
        [(float(row[3]) - (row[1] == "positive")) ** 2 for row in rows[1:]], abs=1e-5
    )


@pytest.mark.full
@pytest.mark.slow  # a process of its own: test_monai_verbs.py keeps the one of segmentation
def test_inference_without_monai_essa_gives_the_probabilities_of_the_evaluation(
    classified: Path, classes: Path, volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    run = shutil.copytree(classified, tmp_path / "run")
    files = ("train.yaml", "evaluate.yaml")
    run_bundle(BUNDLE, *files, datalist=classes, output_dir=run, validation_section="validation")
    values = {"config_file": str(CONFIGS / "inference.yaml"), "checkpoint": str(run / "model.pt")}
    values |= {"dataset_dir": str(volumes), "pattern": "image_0[45]*", "output_dir": str(tmp_path)}
    values |= {"img_size": [32, 32, 32], "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}  # type: ignore[dict-item]
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_MONAI_ESSA, json.dumps(values)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    expected = {row[0]: row[2:] for row in table(run / "test" / "predictions.csv")[1:]}
    got = {row[0]: row[1:] for row in table(tmp_path / "predictions.csv")}
    assert got.keys() == expected.keys()
    for image, row in got.items():
        np.testing.assert_allclose(
            [float(value) for value in row], [float(value) for value in expected[image]], atol=1e-4
        )


@pytest.mark.parametrize(
    "files", [("loss_ce.yaml", "weights_balanced.yaml"), ("augment_flips.yaml",)], ids=["weights", "flips"]
)
def test_images_of_an_npz_file_are_classified_and_written_as_png(
    files: tuple[str, ...], npz: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    values: dict[str, Any] = FLAT | {"datalist": npz, "output_dir": tmp_path / "run", "pooling": "attention"}
    overlays = ("train.yaml", "start_random.yaml", "images_2d.yaml", *files)
    run_bundle(BUNDLE, *overlays, max_epochs=2, limit=12, **values)
    run_bundle(BUNDLE, *overlays, "evaluate.yaml", **values)
    expected = [[float(value) for value in row[2:]] for row in table(tmp_path / "run" / "test" / "predictions.csv")[1:]]
    with np.load(npz) as file:
        for number, image in enumerate(file["test_images"]):
            Image.fromarray(image).save(tmp_path / f"{number:02d}.png")
    values |= {"dataset_dir": tmp_path, "checkpoint": tmp_path / "run" / "model.pt", "output_dir": tmp_path}
    run_bundle(BUNDLE, "inference.yaml", "images_2d.yaml", **values)
    got = [[float(value) for value in row[1:]] for row in table(tmp_path / "predictions.csv")]
    assert len(got) == 6
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_an_image_of_several_classes_learns_each_by_itself(
    classes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    datalist = json.loads(classes.read_text(encoding="utf-8"))
    several = iter([[0, 1], [1, 1], [1, 0], [0, 0], [0, 1], [1, 0]])
    for item in datalist["training"] + datalist["validation"]:
        item["label"] = next(several)
    path = tmp_path / "several.json"
    path.write_text(json.dumps(datalist), encoding="utf-8")
    overlays = ("train.yaml", "start_random.yaml", "loss_bce.yaml", "weights_balanced.yaml")
    values = {"datalist": path, "output_dir": tmp_path / "run"}
    run_bundle(BUNDLE, *overlays, **values)
    run_bundle(BUNDLE, *overlays, "evaluate.yaml", validation_section="training", **values)
    rows = table(tmp_path / "run" / "test" / "predictions.csv")[1:]
    assert [row[1] for row in rows] == ["positive", "negative+positive", "negative", ""]
    assert any(abs(float(row[2]) + float(row[3]) - 1) > 1e-3 for row in rows)


@pytest.mark.parametrize(
    ("network", "values"),
    [("unetr", {}), ("segresnet", {"img_size": [32, 32, 32]}), ("resnet", {"img_size": [64, 32, 32]})],
)
def test_each_network_is_trained_and_runs_in_inference(
    network: str, values: dict[str, Any], classes: Path, volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    values = values | {"output_dir": tmp_path / "run"}
    files = ("train.yaml", f"network_{network}.yaml", "start_random.yaml")
    run_bundle(BUNDLE, *files, datalist=classes, limit=2, **values)
    own = [f"inference_{network}.yaml"] if (CONFIGS / f"inference_{network}.yaml").exists() else []
    values |= {"output_dir": tmp_path, "checkpoint": tmp_path / "run" / "model.pt", "pattern": "image_00*"}
    run_bundle(BUNDLE, "inference.yaml", *own, dataset_dir=volumes, **values)
    ((_, *probabilities),) = table(tmp_path / "predictions.csv")
    assert sum(map(float, probabilities)) == pytest.approx(1, abs=1e-4)


ALL_NETWORKS = ("vit", "unetr", "swin_unetr", "segresnet", "resnet")
POOLINGS = [*product(ALL_NETWORKS, ["mean", "attention"]), ("vit", "flatten"), ("unetr", "flatten")]


@pytest.mark.parametrize(("network", "pooling"), POOLINGS)
def test_inference_takes_the_state_of_every_network(network: str, pooling: str, open_bundle: RunBundle) -> None:
    own = [f"inference_{network}.yaml"] if (CONFIGS / f"inference_{network}.yaml").exists() else []
    values = {"img_size": [64, 64, 64], "feature_size": 24, "pooling": pooling}
    train = open_bundle(BUNDLE, "train.yaml", f"network_{network}.yaml", **values).parser
    inference = open_bundle(BUNDLE, "inference.yaml", *own, **values).parser
    given, taking = (parser.get_parsed_content("network_def").eval() for parser in (train, inference))
    taking.load_state_dict(given.state_dict(), strict=True)
    if network != "swin_unetr":  # seconds
        image = torch.randn(1, 1, 64, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(taking(image), given(image))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (
            [0, 3, 1, 0, 1, 0],
            r"training item 1 \(.*image_01.nii.gz\): expected a class 0 to 1, got 3; correct the label",
        ),
        ([0, 1, 1, 0, 1, "a"], r"validation item 1 \(.*image_05.nii.gz\): expected a class 0 to 1, got 'a'"),
        ([0, 1, 1, 0, 1, 1], "validation: 0 of 2 images are of class 'negative': an AUC needs some with and some"),
    ],
)
def test_bad_labels_are_refused_in_one_line(
    labels: list[Any], expected: str, classes: Path, refused: Refused, tmp_path: Path
) -> None:
    datalist = json.loads(classes.read_text(encoding="utf-8"))
    for item, label in zip(datalist["training"] + datalist["validation"], labels, strict=True):
        item["label"] = label
    (tmp_path / "bad.json").write_text(json.dumps(datalist), encoding="utf-8")
    start = {"start": "random", "method": {"_target_": "monai_essa.methods.FullTuning"}}
    assert re.search(expected, refused(BUNDLE, datalist=tmp_path / "bad.json", **start))


def test_a_text_is_not_taken_for_several_classes(classes: Path, refused: Refused) -> None:
    start = {"start": "random", "method": {"_target_": "monai_essa.methods.FullTuning"}}
    line = refused(BUNDLE, datalist=classes, multi_label="false", **start)
    assert line.startswith("error: multi_label: expected True or False, got 'false'; write it with a capital letter")


def test_whole_volumes_are_classified_alike_in_evaluation_and_inference(
    classes: Path, volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    fit = ("intensity_8bit.yaml", "fit_resize.yaml")
    overlays = ("train.yaml", "start_random.yaml", *fit, "augment_shape.yaml")
    values: dict[str, Any] = {"output_dir": tmp_path / "run", "pooling": "flatten"}
    run_bundle(BUNDLE, *overlays, datalist=classes, **values)
    run_bundle(BUNDLE, *overlays, "evaluate.yaml", datalist=classes, validation_section="validation", **values)
    expected = table(tmp_path / "run" / "test" / "predictions.csv")[1:]
    values |= {"checkpoint": tmp_path / "run" / "model.pt", "output_dir": tmp_path}
    run_bundle(BUNDLE, "inference.yaml", *fit, dataset_dir=volumes, pattern="image_0[45]*", **values)
    got = table(tmp_path / "predictions.csv")
    assert [Path(row[0]).name for row in got] == ["image_04.nii.gz", "image_05.nii.gz"]
    np.testing.assert_allclose(
        [[float(value) for value in row[1:]] for row in got],
        [[float(value) for value in row[2:]] for row in expected],
        atol=1e-4,
    )
