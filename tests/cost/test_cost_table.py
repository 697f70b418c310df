# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Costs by name: names stand for what they say, and a wrong one is one clear line."""

from __future__ import annotations

from functools import partial

import pytest

from monai_essa.cost.table import NETWORKS, OBJECTIVES, CostWork, cost_rows, named_method
from monai_essa.methods import APLA, VPT, AdaptFormer, BitFit, LoRA


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("apla", APLA()),
        ("apla:0.25", APLA(0.25)),
        ("apla:128", APLA(128)),
        ("lora:16", LoRA(rank=16)),
        ("adaptformer:32", AdaptFormer(32)),
        ("vpt:50", VPT(50)),
        ("bitfit", BitFit()),
    ],
)
def test_a_name_is_a_method(name, method):
    assert named_method(name) == method


@pytest.mark.parametrize("name", ["alpa", "bitfit:3", "apla:some", ""])
def test_a_wrong_name_is_refused(name):
    with pytest.raises(ValueError, match="expected a method"):
        named_method(name)


def test_rows_are_full_training_and_each_method_under_each_recipe():
    rows = cost_rows(CostWork("vit_s", size=32, batch=2), ["apla", "bitfit"], ["fast", "small"])
    names = [(row.method, row.recipe) for row in rows]
    assert names == [
        ("full, MONAI's own", "none"),
        ("apla", "fast"),
        ("apla", "small"),
        ("bitfit", "fast"),
        ("bitfit", "small"),
    ]
    assert all(row.cost.peak_bytes < rows[0].cost.peak_bytes for row in rows[1:])
    assert rows[1].record["parts"]["encoder"]["trainable"] < rows[0].record["parts"]["encoder"]["trainable"]


full = partial(pytest.param, marks=pytest.mark.full)  # networks of their published size


@pytest.mark.parametrize("network", [full("unetr_b"), full("swin_unetr"), "segresnet"])
def test_a_segmentation_network_trains_its_decoder_too(network):
    method = "lora_conv" if network == "segresnet" else "apla"
    rows = cost_rows(CostWork(network, size=64, batch=1, objective="segmentation"), [method], ["small"])
    learning, total = (rows[1].record["parts"]["decoder"][key] for key in ("trainable", "total"))
    assert learning == total > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"network": "resnet"}, f"expected network to be one of {', '.join(NETWORKS)}, got 'resnet'"),
        ({"network": "vit_b", "objective": "dino"}, f"objective to be one of {', '.join(OBJECTIVES)}, got 'dino'"),
    ],
)
def test_unknown_work_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        CostWork(**values)


def test_a_vit_segments_nothing():
    with pytest.raises(ValueError, match="expected a network with a decoder"):
        cost_rows(CostWork("vit_s", size=32, objective="segmentation"), ["apla"], ["fast"])
