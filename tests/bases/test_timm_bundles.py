# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The bundles with network_timm.yaml: self-supervised on PNG files, then a classifier that starts from its adapter."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.bundle import ConfigWorkflow
from PIL import Image

from monai_essa.adapters.file import read_adapter
from monai_essa.anatomy import classification_network, timm_vit

timm = pytest.importorskip("timm", reason="timm is not installed; make test-bases installs it", exc_type=ImportError)
BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2}


def run(bundle: str, *files: str, encoder: str, **values: Any) -> None:
    sizes = {f"{encoder}#{name}": value for name, value in TINY.items()}
    training = {"max_epochs": 1, "cache_rate": 0.0, "batch_size": 4, "lean": "small"} if "train.yaml" in files else {}
    given = {"img_size": [28, 28]} | training | sizes | values
    workflow = ConfigWorkflow(
        [str(BUNDLES / bundle / "configs" / file) for file in files],
        logging_file=False,
        workflow_type="train" if training else "infer",
        **{name: str(value) if isinstance(value, Path) else value for name, value in given.items()},
    )
    if training:
        handlers = workflow.parser["train#handlers"]
        workflow.parser["train#handlers"] = [handler for handler in handlers if "CostFile" not in str(handler)]
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Sixteen PNG files of 30 x 28 pixels, their second class brighter on one side, and a datalist of them."""
    rng, items = np.random.default_rng(0), []
    for number in range(16):
        pixels = rng.integers(0, 100, (28, 30)) + 150 * (number % 2) * (np.arange(30) > 15)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number:02d}.png")
        items.append({"image": f"{number:02d}.png", "label": number % 2})
    (tmp_path / "dataset.json").write_text(json.dumps({"training": items[:12], "validation": items[12:]}))
    return tmp_path / "dataset.json"


def test_a_vit_of_timm_goes_through_both_bundles(datalist: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    base = timm.create_model("vit_base_patch14_dinov2", img_size=28, in_chans=1, num_classes=0, **TINY)
    torch.save(base.state_dict(), tmp_path / "dinov2.pth")
    first, second, start = tmp_path / "ssa", tmp_path / "classes", {"pretrained": tmp_path / "dinov2.pth"}
    data, training = {"dataset_dir": datalist.parent}, ("train.yaml", "images_2d.yaml", "network_timm.yaml")
    run("essa_ssa", *training, encoder="network_def#network", output_dir=first, datalist=datalist, **data, **start)
    merged = torch.load(first / "model.pt", weights_only=True)
    assert list(merged) == list(base.state_dict())
    changed = {name for name, tensor in base.state_dict().items() if not torch.equal(tensor, merged[name])}
    assert changed == {f"blocks.{i}.attn.proj.{kind}" for i in range(2) for kind in ("weight", "bias")}

    start["adapter"] = first / "adapter.safetensors"
    run(
        *("essa_classification", *training),
        **{"encoder": "encoder_def#network", "output_dir": second, "datalist": datalist, **data, **start},
    )
    records = [read_adapter(folder / "adapter.safetensors").record for folder in (first, second)]
    assert records[0]["fingerprint"] == records[1]["fingerprint"] and records[0]["facts"] == records[1]["facts"]

    inference, values = ("inference.yaml", "images_2d.yaml", "inference_timm.yaml"), data | {"output_dir": tmp_path}
    run("essa_ssa", *inference, encoder="encoder", checkpoint=first / "model.pt", **values)
    features = list(csv.reader((tmp_path / "features.csv").open(encoding="utf-8")))
    assert len(features) == 16 and {len(row) for row in features} == {1 + 24}
    run("essa_classification", *inference, encoder="encoder_def", checkpoint=second / "model.pt", **values)
    rows = list(csv.reader((tmp_path / "predictions.csv").open(encoding="utf-8")))[-4:]
    classifier = trained(base, second)
    for name, *probabilities in rows:
        pixels = torch.tensor(np.array(Image.open(datalist.parent / Path(name).name)), dtype=torch.float32).T[
            None, None
        ]
        pixels = (pixels - pixels.mean()) / pixels.std(correction=0)
        with torch.no_grad():
            expected = classifier(F.interpolate(pixels, (28, 28), mode="area")).softmax(1)[0]
        assert [float(value) for value in probabilities] == pytest.approx(expected.tolist(), abs=1e-3)


def trained(base: nn.Module, run_folder: Path) -> nn.Module:
    """The classifier of a finished run, built without the bundle."""
    classifier = classification_network(base, 2, anatomy=timm_vit())
    classifier.load_state_dict(torch.load(run_folder / "model.pt", weights_only=True))
    return classifier.eval()
