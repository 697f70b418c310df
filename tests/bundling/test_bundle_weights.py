# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Weights of a run go into a bundle only if they are for its network, its images and its labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_essa.bundling.copy import write_variant
from monai_essa.bundling.finished_run import take_weights
from monai_essa.bundling.folder import bundle_folder

LABELS = {"background": 0, "ball": 1}
VALUES: dict[str, Any] = {"img_size": [32] * 3, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 4}


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "essa_segmentation", **values: Any) -> Path:
        folder = Path(shutil.copytree(bundle_folder(name), tmp_path / "bundle"))
        write_variant(folder, {}, values)
        return folder

    return make


def test_the_weights_and_the_adapter_of_the_run_are_taken(bundle, segmentation_runs) -> None:
    folder, run = bundle(**VALUES, labels=LABELS), segmentation_runs[0]
    take_weights(folder, run)
    taken, own = (torch.load(path, weights_only=True) for path in (folder / "models" / "model.pt", run / "model.pt"))
    assert taken.keys() == own.keys()
    assert all(torch.equal(taken[name], tensor) for name, tensor in own.items())
    assert (folder / "models" / "adapter.safetensors").read_bytes() == (run / "adapter.safetensors").read_bytes()


def test_of_a_whole_network_the_encoder_is_taken_where_the_bundle_runs_that(
    bundle, finished_run, tmp_path: Path
) -> None:
    unetr = {"_target_": "monai.networks.nets.UNETR", "in_channels": 1, "out_channels": 1, "img_size": "@img_size"}
    unetr |= {"feature_size": 4, "hidden_size": "@hidden_size", "mlp_dim": "@mlp_dim", "num_heads": "@num_heads"}
    run = finished_run("essa_ssa", tmp_path / "run", network_def=unetr | {"qkv_bias": True}, handover="network")
    folder = bundle("essa_ssa", **{key: VALUES[key] for key in ("img_size", "hidden_size", "mlp_dim", "num_heads")})
    config = folder / "configs" / "train.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("nets.ViT", "nets.UNETR"), encoding="utf-8")
    text = config.read_text(encoding="utf-8").replace(
        "  patch_size: '@patch_size'\n", "  out_channels: 1\n  feature_size: 4\n"
    )
    config.write_text(text.replace("  num_layers: '@num_layers'\n", ""), encoding="utf-8")

    take_weights(folder, run)
    taken = torch.load(folder / "models" / "model.pt", weights_only=True)
    whole = torch.load(run / "model.pt", weights_only=True)
    assert taken and all(torch.equal(tensor, whole[f"vit.{name}"]) for name, tensor in taken.items())


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"num_heads": 6}, "another hidden_size, mlp_dim, num_heads, feature_size than"),  # no shape tells the heads
        ({"spacing": [2.0, 2.0, 2.0]}, "another spacing, img_size, in_channels, intensity_name than"),
        ({"img_size": [32, 32, 48]}, "another spacing, img_size"),
        ({"labels": {"background": 0, "cube": 1}}, "another labels than"),
    ],
)
def test_a_run_of_another_configuration_is_refused(
    other: dict[str, Any], named: str, bundle, segmentation_runs
) -> None:
    folder = bundle(**(VALUES | {"labels": LABELS} | other))
    with pytest.raises(ValueError, match=named):
        take_weights(folder, segmentation_runs[0])
    assert not (folder / "models").exists()


def test_a_folder_that_is_no_run_is_refused(bundle, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected the folder of a finished run"):
        take_weights(bundle(**VALUES), tmp_path / "nothing")


def test_an_unfinished_run_is_refused(bundle, segmentation_runs, tmp_path: Path) -> None:
    run = Path(shutil.copytree(segmentation_runs[0], tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": "running"}), encoding="utf-8")
    with pytest.raises(ValueError, match="holds an unfinished run"):
        take_weights(bundle(**VALUES, labels=LABELS), run)


def test_weights_of_other_shapes_are_refused(bundle, segmentation_runs, tmp_path: Path) -> None:
    run = Path(shutil.copytree(segmentation_runs[0], tmp_path / "run"))
    state = torch.load(run / "model.pt", weights_only=True)
    del state["out.conv.conv.bias"]
    torch.save(state, run / "model.pt")
    with pytest.raises(ValueError, match=r"does not fit the bundle's network: 'out.conv.conv.bias'"):
        take_weights(bundle(**VALUES, labels=LABELS), run)


@pytest.mark.parametrize(
    "record", ["", "[]", "{}", '{"status": "finished", "config": 3}', "[" * 100_000, '{"config": {}}']
)
def test_a_damaged_record_is_one_line_with_its_file(record: str, bundle, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(record, encoding="utf-8")
    with pytest.raises(ValueError, match="run.json: expected the (JSON )?record of a run"):
        take_weights(bundle(**VALUES), run)
