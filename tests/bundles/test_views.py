# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The objectives of views in the bundles: volumes and pictures, stopped runs, and what a site can get wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file

from monai_essa.error_line import root_cause

RunBundle = Callable[..., ConfigWorkflow]
OBJECTIVES = ("objective_dinov2.yaml", "objective_contrastive.yaml", "objective_diet.yaml")
SMALL = {"num_layers": 2, "local_size": [16, 16, 16], "max_epochs": 2, "prototypes": 32}
FLAT = {"img_size": [32, 32], "local_size": [16, 16], "batch_size": 8, "num_layers": 2, "max_epochs": 2}


class Killed(BaseException):
    """Ends a run in this process at once."""


@pytest.fixture(scope="module")
def base(volumes: Path, run_bundle: RunBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a tiny ViT with two layers."""
    folder = tmp_path_factory.mktemp("base")
    run_bundle("essa_ssa", "train.yaml", "method_full.yaml", output_dir=folder, dataset_dir=volumes, num_layers=2)
    return folder / "model.pt"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NPZ file of 24 pictures of 28 pixels, as those of MedMNIST."""
    path = tmp_path_factory.mktemp("pictures") / "toymnist.npz"
    rng = np.random.default_rng(0)
    arrays = {f"{part}_images": rng.integers(0, 256, (24, 28, 28), np.uint8) for part in ("train", "val", "test")}
    labels = {f"{part}_labels": np.zeros((24, 1), np.uint8) for part in ("train", "val", "test")}
    np.savez(path, **arrays, **labels)
    return path


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "losses.jsonl").read_text(encoding="utf-8").splitlines()]


def batch(objective: str) -> dict[str, Any]:
    """Twelve volumes, of which two are held out: eight patients for contrast, five batches for the others."""
    return SMALL | {"batch_size": 8 if "contrastive" in objective else 4}


@pytest.mark.parametrize("bundle", ["essa_ssa", "essa_tpp"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_adapts_on_volumes(
    objective: str, bundle: str, volumes: Path, base: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    datalist = {"unlabeled": [{"image": str(path)} for path in sorted(volumes.glob("image_*.nii.gz"))]}
    (tmp_path / "list.json").write_text(json.dumps(datalist), encoding="utf-8")
    values = batch(objective) | {"datalist": tmp_path / "list.json", "pretrained": base, "output_dir": tmp_path / "run"}
    run_bundle(bundle, "train.yaml", objective, costed=objective == OBJECTIVES[0], **values)
    written = rows(tmp_path / "run")
    assert len(written) == 2 and all(np.isfinite(row["validation"]["loss"]) for row in written)
    assert (tmp_path / "run" / "model.pt").exists() == (bundle == "essa_ssa")
    adapter = load_file(tmp_path / "run" / "adapter.safetensors")
    assert adapter and all(torch.isfinite(tensor).all() for tensor in adapter.values())
    assert (tmp_path / "run" / "features.png").read_bytes().startswith(b"\x89PNG")
    if objective == OBJECTIVES[0]:
        assert json.loads((tmp_path / "run" / "cost.json").read_text(encoding="utf-8"))["peak_bytes"] > 0


def test_the_schedules_count_optimizer_steps(volumes: Path, base: Path, open_bundle: RunBundle, tmp_path: Path) -> None:
    values = batch(OBJECTIVES[0]) | {"dataset_dir": volumes, "section": "training", "pretrained": base, "hold_out": 4}
    values |= {"batch_size": 1, "accumulation": 2, "output_dir": tmp_path / "run"}
    workflow = open_bundle("essa_ssa", "train.yaml", OBJECTIVES[0], **values)
    batches = len(workflow.parser.get_parsed_content("train#dataloader"))
    schedule = workflow.parser.get_parsed_content("objective").schedule
    assert batches % 2 and (schedule.steps_per_epoch, schedule.steps) == (batches // 2 + 1, batches + 1)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_adapts_on_real_scans(
    objective: str, hippocampus_tiny: Path, base: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    """Ten scans of MR, of which two are held out, but with DIET, by which all learn."""
    values = batch(objective) | {"dataset_dir": hippocampus_tiny, "pretrained": base, "output_dir": tmp_path / "run"}
    run_bundle("essa_ssa", "train.yaml", objective, hold_out=5, **values)
    assert [row["iteration"] for row in rows(tmp_path / "run")] == ([1, 2] if "contrastive" in objective else [2, 4])
    assert (tmp_path / "run" / "model.pt").exists()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_adapts_on_pictures(objective: str, pictures: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    files = ("train.yaml", objective, "images_2d.yaml", "method_full.yaml")
    sizes = {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "prototypes": 32}
    run_bundle("essa_ssa", *files, datalist=pictures, output_dir=tmp_path / "run", **FLAT, **sizes)
    assert len(rows(tmp_path / "run")) == 2 and (tmp_path / "run" / "model.pt").exists()


def test_a_run_killed_twice_ends_as_the_unbroken_one_to_the_last_bit(
    volumes: Path, base: Path, open_bundle: RunBundle, run_bundle: RunBundle, tmp_path: Path
) -> None:
    values = batch(OBJECTIVES[0]) | {"dataset_dir": volumes, "section": "training", "pretrained": base, "hold_out": 4}
    values |= {"batch_size": 1, "koleo": 0.0, "max_epochs": 3, "train#handlers#0#every": 2, "keep_resume": True}
    run_bundle("essa_ssa", "train.yaml", OBJECTIVES[0], output_dir=tmp_path / "unbroken", **values)
    for iteration in (3, 8):
        workflow = open_bundle("essa_ssa", "train.yaml", OBJECTIVES[0], output_dir=tmp_path / "killed", **values)
        workflow.initialize()
        _kill_at(workflow, iteration)
    run_bundle("essa_ssa", "train.yaml", OBJECTIVES[0], output_dir=tmp_path / "killed", **values)
    resumed, unbroken = (_state(tmp_path / name) for name in ("killed", "unbroken"))
    assert {"step", "image_targets.centre", "patch_targets.centre"} <= unbroken.keys()
    assert any(name.startswith("teacher.encoder/") for name in unbroken)
    assert [name for name, value in unbroken.items() if not torch.equal(resumed[name], value)] == []
    assert rows(tmp_path / "killed") == rows(tmp_path / "unbroken")
    one, other = (load_file(tmp_path / name / "adapter.safetensors") for name in ("killed", "unbroken"))
    assert all(torch.equal(one[name], value) for name, value in other.items())


@pytest.mark.parametrize("objective", OBJECTIVES[1:])
def test_a_run_without_a_teacher_killed_twice_ends_as_the_unbroken_one(
    objective: str, volumes: Path, base: Path, open_bundle: RunBundle, run_bundle: RunBundle, tmp_path: Path
) -> None:
    """Sixteen patients learn and two are held out, all with copies of one volume."""
    items = [{"image": f"p{number:02}.nii.gz", "patient": f"p{number:02}"} for number in range(18)]
    for item in items:
        shutil.copy(min(volumes.glob("image_*.nii.gz")), tmp_path / item["image"])
    (tmp_path / "list.json").write_text(json.dumps({"unlabeled": items}), encoding="utf-8")
    values = SMALL | {"datalist": tmp_path / "list.json", "pretrained": base, "batch_size": 8, "samples_per_epoch": 16}
    values |= {"max_epochs": 3, "train#handlers#0#every": 2, "keep_resume": True}
    run_bundle("essa_ssa", "train.yaml", objective, output_dir=tmp_path / "unbroken", **values)
    for iteration in (3, 5):
        workflow = open_bundle("essa_ssa", "train.yaml", objective, output_dir=tmp_path / "killed", **values)
        workflow.initialize()
        _kill_at(workflow, iteration)
    run_bundle("essa_ssa", "train.yaml", objective, output_dir=tmp_path / "killed", **values)
    resumed, unbroken = (_state(tmp_path / name) for name in ("killed", "unbroken"))
    assert any(name.startswith("head.") for name in unbroken)
    assert [name for name, value in unbroken.items() if not torch.equal(resumed[name], value)] == []
    assert rows(tmp_path / "killed") == rows(tmp_path / "unbroken")


def test_the_result_is_the_teacher(volumes: Path, base: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    values = batch(OBJECTIVES[0]) | {"dataset_dir": volumes, "pretrained": base, "keep_resume": True}
    run_bundle("essa_ssa", "train.yaml", OBJECTIVES[0], output_dir=tmp_path, **values)
    state, model = _state(tmp_path), torch.load(tmp_path / "model.pt", weights_only=True)
    name = "blocks.0.attn.out_proj.weight"
    assert torch.equal(model[name], state["teacher.encoder/" + name.replace(".", "/")])
    assert not torch.equal(model[name], state[f"encoder.{name}"])


@pytest.mark.parametrize(
    ("files", "values", "message"),
    [
        (OBJECTIVES[:1], {"batch_size": 2}, "KoLeo needs 4 patients in a batch or more, got 2: raise batch_size"),
        (OBJECTIVES[1:2], {"batch_size": 4}, "nt-xent needs 8 patients in a batch or more, got 4"),
        (OBJECTIVES[:1], {"local_size": [12, 12, 12]}, "(12, 12, 12)"),
        (OBJECTIVES[:1], {"local_size": [48, 48, 48]}, "expected local crops no larger than the global ones"),
        (OBJECTIVES[:1], {"prototypes": 1}, "expected two prototypes or more, got 1"),
        (("network_segresnet.yaml", "method_full.yaml", OBJECTIVES[0]), {}, "SegResNet embeds none"),
        (OBJECTIVES[1:2], {"batch_size": 16}, "nt-xent needs 8 patients in a batch or more, got 5"),
    ],
)
def test_what_a_site_can_get_wrong_is_one_line(
    files: tuple[str, ...],
    values: dict[str, Any],
    message: str,
    volumes: Path,
    base: Path,
    open_bundle: RunBundle,
    tmp_path: Path,
) -> None:
    own = SMALL | {"batch_size": 4} | values | {"dataset_dir": volumes, "output_dir": tmp_path / "run"}
    if "method_full.yaml" not in files:
        own["pretrained"] = base
    with pytest.raises(Exception) as caught:
        workflow = open_bundle("essa_ssa", "train.yaml", *files, **own)
        workflow.initialize()
        workflow.run()
    line = str(root_cause(caught.value))
    assert message in line and "\n" not in line


def _kill_at(workflow: ConfigWorkflow, iteration: int) -> None:
    """Run a bundle and end it where an iteration begins."""

    def kill(engine: Engine) -> None:
        if engine.state.iteration == iteration:
            raise Killed

    workflow.parser.get_parsed_content("train#trainer").add_event_handler(Events.ITERATION_STARTED, kill)
    with pytest.raises(Killed):
        workflow.run()


def _state(run: Path) -> dict[str, torch.Tensor]:
    last = sorted((run / "resume").glob("resume_*.pt"))[-1]
    return torch.load(last, weights_only=True)["objective"]
