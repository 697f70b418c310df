# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The networks of a study: a ladder without weights, the one that given weights need, and what images they see."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import SegResNet, SwinUNETR, ViT

from monai_essa.bundling.finished_run import network_of_config
from monai_essa.bundling.folder import bundle_folder
from monai_essa.planning.networks import (
    Images,
    Network,
    check_depth,
    check_sides,
    given_images,
    given_network,
    network_ladder,
)
from monai_essa.weights import load_weights, zoo_network

IMAGES = Images(3, (1.0, 1.0, 1.0), (48, 64, 48), 1, None, {"background": 0, "liver": 1})


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_ladder_goes_down(task: str, spatial_dims: int) -> None:
    ladder = network_ladder(task, spatial_dims)
    sizes = [(network.values["hidden_size"], network.side) for network in ladder]
    assert sizes == sorted(sizes, reverse=True) and len({width for width, _ in sizes}) == len(ladder)
    assert all(network.values["hidden_size"] % network.values["num_heads"] == 0 for network in ladder)


@pytest.mark.parametrize(
    ("network", "kind", "width", "method"),
    [
        (SegResNet(3, 8, 1, 2, blocks_down=(1, 2, 2, 4)), "segresnet", 8, "lora_conv"),
        (SwinUNETR(1, 2, feature_size=12), "swin_unetr", 12, "apla"),
        (SwinUNETR(1, 2, feature_size=12, use_v2=True), "swin_unetr_v2", 12, "apla"),
    ],
    ids=["segresnet", "swin", "swin v2"],
)
def test_weights_name_their_network(
    network: torch.nn.Module, kind: str, width: int, method: str, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "base.pt")
    found = given_network(str(tmp_path / "base.pt"))
    assert (found.kind, found.feature_size, found.method) == (kind, width, method)


UNETR_SIZES = {"img_size": [32, 32, 32], "feature_size": 4, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}


@pytest.mark.parametrize(
    ("arguments", "kind", "values"),
    [
        ({"_target_": "UNETR", **UNETR_SIZES}, "vit", {"num_heads": 4, "network_def#qkv_bias": False}),
        ({"_target_": "SwinUNETR", "feature_size": 12}, "swin_unetr", {"feature_size": 12}),
        (
            {"_target_": "SegResNet", "init_filters": 8, "blocks_down": [1, 2, 2], "blocks_up": [1, 1]},
            "segresnet",
            {"feature_size": 8, "network_def#blocks_down": [1, 2, 2], "network_def#blocks_up": [1, 1]},
        ),
    ],
    ids=["unetr", "swin", "segresnet of three levels"],
)
def test_a_bundle_of_the_zoo_says_what_no_tensor_shows(
    arguments: dict[str, Any], kind: str, values: dict[str, Any], tmp_path: Path
) -> None:
    """The network that the configs then build takes every tensor of the encoder."""
    given = {"in_channels": 1, "out_channels": 2, **arguments}
    (tmp_path / "configs").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "configs" / "inference.json").write_text(json.dumps({"network_def": given}), encoding="utf-8")
    torch.save(zoo_network(tmp_path).state_dict(), tmp_path / "models" / "model.pt")
    found = given_network(f"bundle:{tmp_path}")
    assert found.kind == kind and found.values.items() >= values.items() and not found.notes
    configs = bundle_folder("essa_segmentation") / "configs"
    files = [configs / "train.yaml", *(configs / name for name in found.overlay)]
    size = {"img_size": [64, 64, 64] if kind == "swin_unetr" else [32, 32, 32]}
    known = {key: value for key, value in found.values.items() if key not in ("patch_size", "num_layers")}
    network = network_of_config(files, known | size | {"feature_size": found.feature_size})
    report = load_weights(network, f"bundle:{tmp_path}")
    assert report.loaded and not report.missing
    with torch.device("meta"):
        network.to("meta").eval()(torch.empty(1, 1, *size["img_size"]))


def test_what_the_user_sets_is_what_the_plan_says() -> None:
    given = given_images(IMAGES, {"img_size": [32, 32, 16], "spacing": [1, 1, 2], "lr": 1.0})
    assert (given.img_size, given.spacing) == ((32, 32, 16), (1.0, 1.0, 2.0))


@pytest.mark.parametrize("values", [{"img_size": [32, 32]}, {"img_size": [32, 32, 0]}, {"spacing": ["$1", 1, 1]}])
def test_what_is_no_size_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        given_images(IMAGES, values)


@pytest.mark.parametrize("values", [{"num_layers": 4}, {}])
def test_a_unetr_of_another_depth_is_refused_in_a_line(values: dict[str, object]) -> None:
    shallow = replace(network_ladder("segmentation", 3)[-1], values={"num_layers": 4 if not values else 12})
    with pytest.raises(ValueError, match=r"^num_layers 4: a UNETR has 12 layers; leave num_layers out"):
        check_depth("segmentation", shallow, values)
    check_depth("classification", shallow, values)


def test_a_crop_that_a_swin_unetr_cannot_take_is_refused_with_one_that_it_can() -> None:
    swin = Network("Swin", "swin_unetr_v2", {}, 12, 96)
    for sides, fitting in (((32, 32, 32), "[64, 64, 64]"), ((48, 64, 96), "[64, 64, 96]")):
        with pytest.raises(ValueError, match=re.escape(f"img_size {list(sides)}: a SwinUNETR needs")) as raised:
            check_sides(swin, replace(IMAGES, img_size=sides))
        assert str(raised.value).endswith(f"set {fitting}")
    check_sides(swin, replace(IMAGES, img_size=(64, 64, 32)))
    check_sides(network_ladder("segmentation", 3)[-1], replace(IMAGES, img_size=(32, 32, 32)))


def test_the_heads_of_a_vit_are_those_of_the_run_that_wrote_it(tmp_path: Path) -> None:
    vit = ViT(1, 32, 16, hidden_size=24, mlp_dim=48, num_layers=12, num_heads=4, qkv_bias=True)
    torch.save(vit.state_dict(), tmp_path / "model.pt")
    guessed = given_network(str(tmp_path / "model.pt"))
    record = {"status": "finished", "config": {}, "settings": {"num_heads": 4}}
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert given_network(str(tmp_path / "model.pt")).values["num_heads"] == 4 != guessed.values["num_heads"]
