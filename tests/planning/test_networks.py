# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The networks of a study: a ladder without weights, the one that given weights need, and what images they see."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.networks.nets import SegResNet, SwinUNETR, ViT

from monai_essa.planning.networks import (
    Images,
    Network,
    check_depth,
    check_sides,
    given_images,
    given_network,
    network_ladder,
)

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
