# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Bad starts: weights, adapters and methods that do not fit are refused in one line, and earlier outputs left alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.networks.nets import ViT
from safetensors import safe_open
from safetensors.torch import save_file

from monai_essa.adapters.record import KEY, seal_record
from monai_essa.error_line import root_cause

RunBundle = Callable[..., ConfigWorkflow]
Refused = Callable[..., str]

APLA = "monai_essa.methods.APLA"
CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "essa_ssa" / "configs"

SSA = {"pretrained": "{base}"}
COLUMNS = r"APLA, columns: expected None, a count from 1, a fraction in \(0, 1\] with a decimal point"
NO_STARTS = {
    "nothing frozen": (
        "essa_ssa",
        {},
        r"no pretrained weights: APLA would freeze random tensors; give pretrained=FILE,",
    ),
    "random and APLA": (
        "essa_segmentation",
        {"start": "random"},
        r"no pretrained weights: APLA would freeze random ten",
    ),
    "no base": ("essa_segmentation", {}, r"start 'adapter' needs pretrained=FILE"),
    "no adapter": ("essa_segmentation", SSA, r"start 'adapter' needs adapter=FILE"),
    "unknown start": (
        "essa_segmentation",
        {"start": "encodr"},
        r"start must be one of random, encoder, adapter, got 'e",
    ),
    "missing base": ("essa_ssa", {"pretrained": "gone.pt"}, r"gone.pt: no such .*file; check the path"),
    "missing adapter": ("essa_segmentation", SSA | {"adapter": "gone.safetensors"}, r"gone.safetensors"),
    "missing head": ("essa_ssa", SSA | {"pretext_head": "gone.safetensors"}, r"gone.safetensors: no such file; check"),
    "no such name": (
        "essa_ssa",
        SSA | {"also_train": ["decodr.*"]},
        r"also_train pattern 'decodr.\*' matches no param",
    ),
    "name of method": (
        "essa_ssa",
        SSA | {"also_train": [".*out_proj.*"]},
        r"which the method trains; narrow the patte",
    ),
    "random decoder": (
        "essa_segmentation",
        SSA | {"start": "encoder", "also_train": [r"out\..*"]},
        r"'encoder1\S+' of the decoder is neither loaded nor trained.*also_train",
    ),
    "too many columns": ("essa_ssa", SSA | {"method": {"columns": 49}}, r"columns must be between 1 and 48, .*got 49"),
    "fraction over 1": ("essa_ssa", SSA | {"method": {"columns": 1.5}}, COLUMNS),
    "fraction of 0": ("essa_ssa", SSA | {"method": {"columns": 0.0}}, COLUMNS),
    "no such value": ("essa_ssa", SSA | {"method": {"colums": 4}}, r"unexpected keyword argument 'colums'"),
    "another width": ("essa_ssa", SSA | {"hidden_size": 96}, r"model.pt: .*hidden_size is 48 in the file and 96"),
}


@pytest.mark.parametrize(("bundle", "values", "expected"), NO_STARTS.values(), ids=NO_STARTS)
def test_a_start_that_cannot_work_is_refused(
    bundle: str, values: dict[str, Any], expected: str, stages, volumes: Path, refused: Refused
) -> None:
    values = {key: str(stages.pretrained / "model.pt") if value == "{base}" else value for key, value in values.items()}
    if "method" in values:
        values["method"] = {"_target_": APLA} | values["method"]
    assert re.search(expected, refused(bundle, dataset_dir=volumes, **values))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda good: good[: len(good) // 2],
            r"bad.pt is truncated or no file of torch.save; copy or download it again",
        ),
        (lambda good: b"", r"bad.pt is truncated or no file of torch.save; copy or download it again"),
    ],
    ids=["cut", "empty"],
)
def test_a_truncated_checkpoint_is_named(
    damage: Callable[[bytes], bytes], expected: str, stages, volumes: Path, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "bad.pt").write_bytes(damage((stages.pretrained / "model.pt").read_bytes()))
    assert re.search(expected, refused("essa_ssa", dataset_dir=volumes, pretrained=tmp_path / "bad.pt"))


def test_a_pickled_network_is_refused(volumes: Path, refused: Refused, tmp_path: Path) -> None:
    torch.save(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), tmp_path / "bad.pt")
    line = refused("essa_ssa", dataset_dir=volumes, pretrained=tmp_path / "bad.pt")
    assert re.search(r"bad.pt holds Python objects besides tensors.* was refused; re-save the state dict", line)


def test_an_adapter_for_another_base_is_refused(stages, volumes: Path, refused: Refused, tmp_path: Path) -> None:
    other = torch.load(stages.pretrained / "model.pt", weights_only=True)
    other["norm.weight"] += 1
    torch.save(other, tmp_path / "other.pt")
    adapter = stages.adapted / "adapter.safetensors"
    line = refused("essa_segmentation", dataset_dir=volumes, pretrained=tmp_path / "other.pt", adapter=adapter)
    assert re.search(
        r"adapter.safetensors was trained on another base: 1 of \d+ frozen .*'vit.norm.weight'; load", line
    )


def test_an_adapter_of_an_unknown_method_is_refused(stages, volumes: Path, refused: Refused, tmp_path: Path) -> None:
    with safe_open(stages.adapted / "adapter.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()[KEY])
        record["methods"][0]["name"] = "Mystery"
        sealed = {KEY: json.dumps(seal_record(record, "a test"))}
        save_file({name: file.get_tensor(name) for name in file.keys()}, tmp_path / "a.safetensors", sealed)
    files = {"pretrained": stages.pretrained / "model.pt", "adapter": tmp_path / "a.safetensors"}
    line = refused("essa_segmentation", dataset_dir=volumes, **files)
    assert re.search(r"a.safetensors: method 'Mystery' is unknown; pass its class", line)


def test_a_damaged_adapter_is_named(stages, volumes: Path, refused: Refused, tmp_path: Path) -> None:
    good = (stages.adapted / "adapter.safetensors").read_bytes()
    (tmp_path / "bad.safetensors").write_bytes(good[: len(good) // 2])
    files = {"pretrained": stages.pretrained / "model.pt", "adapter": tmp_path / "bad.safetensors"}
    line = refused("essa_segmentation", dataset_dir=volumes, **files)
    assert re.search(r"bad.safetensors is damaged or no safetensors file .*; copy it again or save it anew", line)


def test_a_finished_run_is_left_alone(stages, volumes: Path, run_bundle: RunBundle) -> None:
    """The fixture compares the folder's files with what they were."""
    with pytest.raises(RuntimeError) as caught:
        run_bundle("essa_ssa", "train.yaml", "method_full.yaml", dataset_dir=volumes, output_dir=stages.pretrained)
    cause = root_cause(caught.value)
    assert re.fullmatch(
        r"\S+pretrained holds a finished run: give another output folder, or delete this one", str(cause)
    )


@pytest.mark.full
@pytest.mark.slow  # a process of its own, whose exit code and last line count; `refused` sees the line in this one
def test_the_command_ends_with_the_line_and_an_exit_code(volumes: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        str(CONFIGS / "train.yaml"),
    ]
    done = subprocess.run(
        [*command, "--dataset_dir", str(volumes)], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no pretrained weights: APLA would freeze random tensors;")
    assert not list(tmp_path.iterdir())
