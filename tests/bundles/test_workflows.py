# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The main job through the bundles: what each stage writes, and that it is a plain MONAI network afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from monai.bundle import ConfigWorkflow
from monai.networks.nets import UNETR, SegResNet, SwinUNETR, ViT
from monai.networks.nets.swin_unetr import SwinTransformer
from safetensors.torch import load_file

from monai_essa import load_adapter
from monai_essa.adapters.file import read_adapter

RunBundle = Callable[..., ConfigWorkflow]
STAGE_FILES = {"adapter.safetensors", "cost.json", "losses.jsonl", "model.pt", "run.json", "summary.txt", "tensorboard"}
CUBE = [64, 64, 64]  # the smallest that a SwinUNETR takes


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "model.pt", weights_only=True)


def vit() -> ViT:
    return ViT(1, [32] * 3, 16, hidden_size=48, mlp_dim=96, num_layers=12, num_heads=4, qkv_bias=True).eval()


def unetr() -> UNETR:
    return UNETR(1, 3, [32] * 3, feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4, qkv_bias=True).eval()


def test_each_stage_writes_its_results(stages) -> None:
    for run in (stages.pretrained, stages.adapted):
        assert {path.name for path in run.iterdir()} == STAGE_FILES | {"pretext_head.safetensors", "reconstruction.png"}
    assert {path.name for path in stages.segmented.iterdir()} == STAGE_FILES | {"best.pt"}
    for run in (stages.pretrained, stages.adapted, stages.segmented):
        assert json.loads((run / "run.json").read_text())["status"] == "finished"
        rows = [json.loads(line) for line in (run / "losses.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [1]
        assert np.isfinite(rows[0]["loss"]) and rows[0]["validation"]


def test_nothing_that_travels_names_a_file_of_the_data(stages, volumes: Path) -> None:
    for run in (stages.adapted, stages.segmented):
        for file in (path for path in run.rglob("*") if path.is_file()):
            assert not re.search(rb"image_\d\d|label_\d\d|" + str(volumes).encode(), file.read_bytes()), file


def assert_merged_is_adapted(run: Path, base: Path, build: Callable[[], nn.Module]) -> None:
    """The adapter file on its base computes what model.pt in the stock class does."""
    network, merged, image = build(), build(), torch.randn(1, 1, 32, 32, 32)
    (network.vit if isinstance(network, UNETR) else network).load_state_dict(weights(base))
    merged.load_state_dict(weights(run), strict=True)
    load_adapter(network, run / "adapter.safetensors").eval()
    with torch.no_grad():
        expected, got = (net(image) if build is unetr else net(image)[0] for net in (network, merged))
    assert (expected - got).abs().max() <= 1e-5
    assert expected.std() > 0


def test_the_merged_network_computes_what_the_adapted_one_does(stages) -> None:
    assert_merged_is_adapted(stages.adapted, stages.pretrained, vit)
    assert_merged_is_adapted(stages.segmented, stages.pretrained, unetr)


def test_two_methods_are_handed_over_together(stages, volumes: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    targets = ("monai_essa.methods.APLA", "monai_essa.methods.LoRA")
    method = [{"_target_": targets[0], "columns": 8}, {"_target_": targets[1], "rank": 2, "targets": ["q", "v"]}]
    base = {"dataset_dir": volumes, "pretrained": stages.pretrained / "model.pt"}
    adapted, segmented = tmp_path / "adapted", tmp_path / "segmented"
    run_bundle("essa_ssa", "train.yaml", method=method, output_dir=adapted, **base)
    start = base | {"adapter": adapted / "adapter.safetensors", "limit": 1}
    run_bundle("essa_segmentation", "train.yaml", output_dir=segmented, **start)
    assert_merged_is_adapted(adapted, stages.pretrained, vit)
    assert_merged_is_adapted(segmented, stages.pretrained, unetr)
    first, second = (read_adapter(run / "adapter.safetensors") for run in (adapted, segmented))
    assert [entry["name"] for entry in second.record["methods"]] == ["APLA", "LoRA"]
    name = "encoder:blocks.0.attn.out_proj.columns"
    assert torch.equal(first.tensors[name], second.tensors[name])
    assert not torch.equal(
        first.tensors[name.replace("columns", "rows")], second.tensors[name.replace("columns", "rows")]
    )


def test_only_output_projections_of_the_encoder_learn(stages) -> None:
    base, adapted, segmented = (weights(run) for run in (stages.pretrained, stages.adapted, stages.segmented))
    segmented = {name.removeprefix("vit."): tensor for name, tensor in segmented.items() if name.startswith("vit.")}
    assert base.keys() == adapted.keys() == segmented.keys()
    for before, after in ((base, adapted), (adapted, segmented)):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {f"blocks.{i}.attn.out_proj.{kind}" for i in range(12) for kind in ("weight", "bias")}


def test_the_adapter_of_segmentation_stays_relative_to_the_public_base(stages) -> None:
    first, second = (read_adapter(run / "adapter.safetensors") for run in (stages.adapted, stages.segmented))
    assert first.record["fingerprint"] == second.record["fingerprint"]
    assert first.record["methods"] == second.record["methods"]
    assert second.record["preprocessing"]["labels"] == {"background": 0, "anterior": 1, "posterior": 2}


def test_unlabelled_items_are_what_adaptation_learns_from(stages) -> None:
    assert json.loads((stages.adapted / "run.json").read_text())["items"] == {"training": 5, "validation": 1}


def test_adaptation_goes_on_with_the_head_of_the_pretraining(
    stages, volumes: Path, open_bundle: RunBundle, tmp_path: Path
) -> None:
    head = stages.pretrained / "pretext_head.safetensors"
    start = {"pretrained": stages.pretrained / "model.pt", "pretext_head": head}
    workflow = open_bundle("essa_ssa", "train.yaml", dataset_dir=volumes, output_dir=tmp_path, **start)
    workflow.initialize()
    state = workflow.parser.get_parsed_content("train#trainer").network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in load_file(head).items())


@pytest.mark.parametrize("method", [pytest.param("apla", marks=pytest.mark.full), "lora", "full"])
def test_segmentation_starts_from_an_encoder_with_each_method(
    method: str, stages, volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    run_bundle(
        "essa_segmentation",
        "train.yaml",
        f"method_{method}.yaml",
        dataset_dir=volumes,
        output_dir=tmp_path,
        start="encoder",
        pretrained=stages.adapted / "model.pt",
        limit=1,
    )
    unetr().load_state_dict(weights(tmp_path), strict=True)


def test_segmentation_starts_from_nothing(volumes: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    run_bundle(
        "essa_segmentation", "train.yaml", "start_random.yaml", dataset_dir=volumes, output_dir=tmp_path, limit=1
    )
    unetr().load_state_dict(weights(tmp_path), strict=True)


@pytest.mark.parametrize("pretext", ["objective_mae.yaml", "objective_simmim.yaml"])
def test_a_unetr_is_adapted_by_its_vit(
    pretext: str, stages, volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    files = ("train.yaml", "network_unetr.yaml", pretext)
    pretrained = stages.pretrained / "model.pt"
    run_bundle("essa_ssa", *files, dataset_dir=volumes, output_dir=tmp_path, pretrained=pretrained)
    vit().load_state_dict(weights(tmp_path), strict=True)


@pytest.mark.full
@pytest.mark.slow  # a SwinUNETR takes crops of 64 voxels a side; a SegResNet goes the same way in `make test`
def test_a_swin_unetr_is_adapted_with_its_decoder_and_segments(
    volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    small = {"dataset_dir": volumes, "img_size": CUBE, "feature_size": 12, "batch_size": 1, "costed": True}
    small |= {"network_def#window_size": 4}  # divides the tokens of a side: seven times faster than 7 here
    files = ("train.yaml", "network_swin_unetr.yaml")
    first, second, third = (tmp_path / name for name in ("full", "apla", "segmentation"))
    run_bundle(
        "essa_ssa", *files, "objective_simmim.yaml", "method_full.yaml", output_dir=first, samples_per_epoch=2, **small
    )
    SwinTransformer(
        1, 12, (4,) * 3, (2,) * 3, depths=(2,) * 4, num_heads=(3, 6, 12, 24), qkv_bias=True
    ).load_state_dict(weights(first), strict=True)

    run_bundle(
        "essa_ssa",
        *files,
        "objective_simmim_decoder.yaml",
        output_dir=second,
        pretrained=first / "model.pt",
        samples_per_epoch=1,
        **small,
    )
    SwinUNETR(1, 1, feature_size=12, window_size=4).load_state_dict(weights(second), strict=True)

    start = {"start": "encoder", "pretrained": second / "model.pt", "limit": 1}
    run_bundle("essa_segmentation", *files, output_dir=third, **start, **small)
    before, after = weights(second), weights(third)
    SwinUNETR(1, 3, feature_size=12, window_size=4).load_state_dict(after, strict=True)
    frozen = [name for name in before if name.startswith("swinViT.") and ".attn.proj." not in name]
    assert all(torch.equal(before[name], after[name]) for name in frozen)


@pytest.mark.slow  # four runs, each of which starts from the one before
def test_a_segresnet_goes_all_the_way(volumes: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    small = {"dataset_dir": volumes, "img_size": [32] * 3, "feature_size": 8}
    first, second, third, fourth = (tmp_path / name for name in ("full", "ssa", "tpp", "segmentation"))
    files = ("train.yaml", "network_segresnet.yaml")
    decoder = ("objective_simmim_decoder.yaml", "method_full.yaml")
    run_bundle("essa_ssa", *files, *decoder, output_dir=first, samples_per_epoch=2, costed=True, **small)
    SegResNet(3, 8, 1, 1, blocks_down=(1, 2, 2, 4)).load_state_dict(weights(first), strict=True)

    base = small | {"pretrained": first / "model.pt"}
    run_bundle("essa_ssa", *files, "method_lora_conv.yaml", output_dir=second, samples_per_epoch=2, **base)
    assert not any(name.startswith(("up_", "conv_final")) for name in weights(second))
    run_bundle("essa_tpp", *files, "method_ssf.yaml", output_dir=third, samples_per_epoch=2, **base)

    adapter = third / "adapter.safetensors"
    run_bundle("essa_segmentation", *files, output_dir=fourth, limit=1, adapter=adapter, **base)
    SegResNet(3, 8, 1, 3, blocks_down=(1, 2, 2, 4)).load_state_dict(weights(fourth), strict=True)
