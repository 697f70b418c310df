# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""TPP through the bundles: only what the method adds learns, whatever the method and the pretext task; its controls."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.networks.nets import ViT
from safetensors.torch import load_file

from monai_essa import adapt, load_adapter
from monai_essa.adapters.file import read_adapter
from monai_essa.error_line import root_cause

RunBundle = Callable[..., ConfigWorkflow]
Refused = Callable[..., str]
# Each method once and each objective twice; the other half of the product is left to `make test-all`.
LEARNED = [("lora", "mae"), ("adaptformer", "simmim"), ("vpt", "mae"), ("ssf", "simmim")]
LEARNED += [
    pytest.param(method, objective, marks=pytest.mark.full)
    for method, objective in (("lora", "simmim"), ("adaptformer", "mae"), ("vpt", "simmim"), ("ssf", "mae"))
]
UNMERGEABLE = {"adaptformer", "vpt"}
SHAPE = {"in_channels": 1, "out_channels": 1, "img_size": [32, 32, 32], "feature_size": 8, "qkv_bias": True}
UNETR = {"_target_": "monai.networks.nets.UNETR", **SHAPE, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
# Of eight tokens MAE shows two, and prompts have to be fewer.
SIZES: dict[str, dict[str, Any]] = {"vpt": {"method#tokens": 1}}


def vit() -> ViT:
    return ViT(1, [32] * 3, 16, hidden_size=48, mlp_dim=96, num_layers=12, num_heads=4, qkv_bias=True).eval()


def base(stages) -> dict[str, torch.Tensor]:
    return torch.load(stages.pretrained / "model.pt", weights_only=True)


def added_names(method: Any) -> set[str]:
    network = vit()
    plain = set(network.state_dict())
    return {f"encoder:{name}" for name in adapt(network, method).state_dict() if name not in plain}


def notes(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))["notes"]


def losses(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "losses.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def start(stages, volumes: Path) -> dict[str, Any]:
    return {"dataset_dir": volumes, "pretrained": stages.pretrained / "model.pt"}


@pytest.fixture(scope="module")
def tpp(start: dict[str, Any], run_bundle: RunBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default: LoRA and MAE; five volumes in batches of two, one epoch."""
    run = tmp_path_factory.mktemp("tpp") / "run"
    run_bundle("essa_tpp", "train.yaml", output_dir=run, costed=True, **start)
    return run


def test_a_run_leaves_an_adapter_and_no_network(tpp: Path) -> None:
    written = {"adapter.safetensors", "losses.jsonl", "pretext_head.safetensors", "reconstruction.png"}
    assert {path.name for path in tpp.iterdir()} == written | {"cost.json", "run.json", "summary.txt", "tensorboard"}
    assert notes(tpp) == {"stage": "tpp", "pretext_head": None, "freeze_pretext_head": False, "lean": "fast"}
    assert json.loads((tpp / "run.json").read_text(encoding="utf-8"))["iterations"] == 3


@pytest.mark.parametrize(("method", "objective"), LEARNED)
def test_only_what_the_method_adds_is_learned_and_handed_over(
    method: str, objective: str, stages, start: dict[str, Any], run_bundle: RunBundle, tmp_path: Path
) -> None:
    files = ("train.yaml", f"method_{method}.yaml", f"objective_{objective}.yaml")
    workflow = run_bundle(
        "essa_tpp", *files, output_dir=tmp_path, samples_per_epoch=4, **start, **SIZES.get(method, {})
    )
    file = read_adapter(tmp_path / "adapter.safetensors")
    assert set(file.tensors) == set(file.record["method_tensors"]) == added_names(file.methods()[0])
    trained = workflow.parser.get_parsed_content("network").state_dict()
    assert [name for name, tensor in base(stages).items() if not torch.equal(trained[name], tensor)] == []
    untrained = adapt(vit(), file.methods()[0]).state_dict()
    moved = [name for name in file.tensors if not torch.equal(trained[name[8:]], untrained[name[8:]])]
    assert moved and np.isfinite(losses(tmp_path)[0]["loss"])


def test_the_run_itself_sees_a_backbone_that_changed(
    start: dict[str, Any], open_bundle: RunBundle, tmp_path: Path
) -> None:
    workflow = open_bundle("essa_tpp", "train.yaml", output_dir=tmp_path, **start)
    workflow.initialize()
    weight = workflow.parser.get_parsed_content("network").blocks[3].mlp.linear1.weight
    trainer = workflow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: weight.data.add_(1.0e-6))
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    assert re.search(
        r"1 frozen tensors changed during training \(encoder.blocks.3.mlp.linear1.weight\)",
        str(root_cause(caught.value)),
    )
    assert not (tmp_path / "adapter.safetensors").exists()


def test_a_merged_encoder_is_written_where_it_is_asked_for(
    start: dict[str, Any], run_bundle: RunBundle, tmp_path: Path
) -> None:
    run_bundle("essa_tpp", "train.yaml", output_dir=tmp_path, handover="encoder", **start)
    network, merged, image = vit(), vit(), torch.randn(1, 1, 32, 32, 32)
    network.load_state_dict(torch.load(start["pretrained"], weights_only=True))
    merged.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    load_adapter(network, tmp_path / "adapter.safetensors").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(image)[0], network(image)[0], atol=1e-5, rtol=1e-5)


def test_a_frozen_pretext_head_ends_as_it_began_and_is_recorded(
    stages, start: dict[str, Any], run_bundle: RunBundle, tmp_path: Path
) -> None:
    head = stages.pretrained / "pretext_head.safetensors"
    values = start | {"pretext_head": head, "freeze_pretext_head": True, "keep_resume": True}
    run_bundle("essa_tpp", "train.yaml", output_dir=tmp_path, **values)
    before, after = load_file(head), load_file(tmp_path / "pretext_head.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert notes(tmp_path)["freeze_pretext_head"] is True
    assert re.fullmatch("[0-9a-f]{64}", notes(tmp_path)["pretext_head"])
    checkpoint = torch.load(next((tmp_path / "resume").glob("*.pt")), weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["objective"]} == {"encoder"}


@pytest.mark.parametrize(
    ("bundle", "values", "expected"),
    [
        (
            "essa_tpp",
            {"freeze_pretext_head": True},
            "freeze_pretext_head would keep a random head: give pretext_head=F",
        ),
        ("essa_tpp", {"freeze_pretext_head": "false"}, "freeze_pretext_head: expected True or False, got 'false'"),
        ("essa_segmentation", {"start": "encoder", "initialisation": "random"}, "and APLA adds none: set initialisati"),
        ("essa_segmentation", {"start": "encoder", "equal_steps": "gone"}, "gone holds no run.json: give the folder"),
    ],
)
def test_a_control_that_cannot_work_is_refused(
    bundle: str, values: dict[str, Any], expected: str, start: dict[str, Any], refused: Refused
) -> None:
    assert expected in refused(bundle, **start, **values)


def test_a_frozen_decoder_of_its_own_has_to_be_in_the_pretrained_file(
    start: dict[str, Any], refused: Refused, run_bundle: RunBundle, tmp_path: Path
) -> None:
    line = refused("essa_tpp", network_def=UNETR, own_decoder=True, **start)
    assert re.search(r"'encoder1\S+' of the decoder is neither loaded nor trained: it would stay random", line)

    files = ("network_unetr.yaml", "objective_simmim_decoder.yaml")
    run_bundle("essa_ssa", "train.yaml", *files, output_dir=tmp_path / "ssa", samples_per_epoch=2, **start)
    values = start | {"samples_per_epoch": 2} | {"pretrained": tmp_path / "ssa" / "model.pt"}
    run_bundle("essa_tpp", "train.yaml", *files, output_dir=tmp_path / "tpp", **values)
    file = read_adapter(tmp_path / "tpp" / "adapter.safetensors")
    assert set(file.tensors) == added_names(file.methods()[0])


# One method that merges and one that does not.
@pytest.mark.parametrize(
    "method", ["lora", "vpt", *(pytest.param(name, marks=pytest.mark.full) for name in ("adaptformer", "ssf"))]
)
def test_segmentation_goes_on_from_the_target_parameters(
    method: str, start: dict[str, Any], run_bundle: RunBundle, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    first, second = tmp_path / "tpp", tmp_path / "segmentation"
    files = ("train.yaml", f"method_{method}.yaml")
    run_bundle("essa_tpp", *files, output_dir=first, samples_per_epoch=2, **start, **SIZES.get(method, {}))
    values = start | {"adapter": first / "adapter.safetensors", "limit": 1}
    with caplog.at_level(logging.WARNING, "monai_essa.engines"):
        run_bundle("essa_segmentation", "train.yaml", output_dir=second, **values)
    said = [record.getMessage() for record in caplog.records if "no model.pt" in record.getMessage()]
    assert (second / "model.pt").exists() == (method not in UNMERGEABLE)
    assert len(said) == (method in UNMERGEABLE)

    score = ("evaluate.yaml", "evaluate_adapter.yaml")
    values = start | {"output_dir": second, "validation_section": "validation"}
    run_bundle("essa_segmentation", "train.yaml", *score, **values)
    rows = [row.split(",") for row in (second / "test" / "dice_raw.csv").read_text().splitlines()[1:]]
    assert np.mean([float(row[-1]) for row in rows]) == pytest.approx(losses(second)[0]["validation"]["val_mean_dice"])


def test_the_supervised_controls_are_one_key_each(
    tpp: Path, start: dict[str, Any], run_bundle: RunBundle, tmp_path: Path
) -> None:
    values = start | {"start": "encoder", "initialisation": "random", "equal_steps": tpp, "limit": 3, "val_interval": 3}
    workflow = run_bundle("essa_segmentation", "train.yaml", "method_lora.yaml", output_dir=tmp_path, **values)
    expected = {"start": "encoder", "initialisation": "random", "epochs": 3, "extra_epochs": 2, "lean": "fast"}
    assert notes(tmp_path) == expected  # three steps more, by two in an epoch
    assert [row["epoch"] for row in losses(tmp_path)] == [1, 2, 3]
    network = workflow.parser.get_parsed_content("network")
    assert network.vit.blocks[0].attn.qkv.lora_B["q"].abs().max() > 0.03  # six steps from zero are shorter


def test_a_finished_run_reconstructs_without_a_merged_network(
    tpp: Path, start: dict[str, Any], run_bundle: RunBundle, tmp_path: Path
) -> None:
    for name in ("adapter.safetensors", "pretext_head.safetensors"):
        (tmp_path / name).write_bytes((tpp / name).read_bytes())
    run_bundle("essa_tpp", "train.yaml", "reconstruct.yaml", output_dir=tmp_path, **start)
    picture = (tmp_path / "reconstructions" / "0000.png").read_bytes()
    assert picture == (tpp / "reconstruction.png").read_bytes()


@pytest.mark.parametrize("objective", ["mae", pytest.param("simmim", marks=pytest.mark.full)])
def test_images_of_an_npz_file_are_learned_from(objective: str, run_bundle: RunBundle, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (12, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", train_images=images, train_labels=np.arange(12)[:, None] % 2)
    flat = {"datalist": tmp_path / "images.npz", "img_size": [28, 28], "patch_size": 4, "num_layers": 2}
    files = ("train.yaml", "images_2d.yaml", f"objective_{objective}.yaml")
    run_bundle("essa_ssa", *files, "method_full.yaml", output_dir=tmp_path / "full", **flat)
    values = flat | {"pretrained": tmp_path / "full" / "model.pt"}
    run_bundle("essa_tpp", *files, output_dir=tmp_path / "tpp", **values)
    assert set(read_adapter(tmp_path / "tpp" / "adapter.safetensors").tensors) == {
        f"encoder:blocks.{block}.attn.qkv.lora_{side}.{target}" for block in (0, 1) for side in "AB" for target in "qv"
    }
    run_bundle("essa_tpp", *files, "reconstruct.yaml", output_dir=tmp_path / "tpp", **values)
    assert (tmp_path / "tpp" / "reconstructions" / "0000.png").exists()
