# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Accounting for every tensor of a file and of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn as nn

from monai_essa.anatomy.key_maps import KEY_MAPS
from monai_essa.anatomy.parts import dead_parameters
from monai_essa.weights.alignment import alignments
from monai_essa.weights.file import WeightFile
from monai_essa.weights.fit import find_grids
from monai_essa.weights.matching import LoadingPlan, make_plan

Build = Callable[..., nn.Module]
STALE = "blocks.0.cross_attn.to_q.weight"


def plan_of(tensors: Mapping[str, torch.Tensor], network: nn.Module) -> LoadingPlan:
    file = WeightFile("weights.pt", "", dict(tensors))
    alignment = alignments(file.tensors, network, KEY_MAPS)[0]
    return make_plan(file, network, alignment, find_grids(network, file, alignment, (None, None)))


@pytest.mark.parametrize(
    ("source", "target"),
    [("vit", "vit"), ("mae", "vit"), ("vit", "mae"), ("unetr", "vit"), ("vit", "unetr"), ("swin", "swin")],
)
def test_every_tensor_of_both_sides_is_in_one_list(source: str, target: str, build: Build) -> None:
    tensors, network = build(source).state_dict(), build(target, in_channels=2)
    report = plan_of(tensors, network).report
    loaded = [*report.matched, *report.renamed, *report.inflated, *report.interpolated]
    assert sorted(entry.source for entry in (*loaded, *report.skipped)) == sorted(tensors)
    accounted = [entry.name for entry in (*loaded, *report.missing)]
    assert len(accounted) == len(set(accounted))
    assert set(accounted) | dead_parameters(network) == set(network.state_dict())
    assert all(entry.reason for entry in (*report.skipped, *report.missing))


def test_planning_leaves_the_network_alone(build: Build) -> None:
    network = build("vit")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plan_of(build("vit").state_dict(), network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_share_is_that_of_parameters(build: Build) -> None:
    network = build("vit")
    total = sum(p.numel() for name, p in network.named_parameters() if "norm_cross_attn" not in name)
    file = {name: tensor for name, tensor in network.state_dict().items() if name != "blocks.1.mlp.linear1.weight"}
    assert plan_of(file, network).report.encoder_share == pytest.approx(1 - 96 * 48 / total)


def test_blocks_of_a_deeper_file_count_as_not_loaded(build: Build) -> None:
    network, deeper = build("vit", num_layers=1), build("vit", num_layers=3)
    sizes = [
        sum(p.numel() for name, p in each.named_parameters() if "norm_cross_attn" not in name)
        for each in (network, deeper)
    ]
    assert plan_of(deeper.state_dict(), network).report.encoder_share == pytest.approx(sizes[0] / sizes[1])


def test_heads_and_decoders_of_the_file_do_not_lower_the_share(build: Build) -> None:
    extra = {"classification_head.weight": torch.ones(4, 48), "decoder_pred.weight": torch.ones(9, 48)}
    assert plan_of(build("vit").state_dict() | extra, build("vit")).report.encoder_share == 1


def test_dead_tensors_are_skipped_by_name_and_never_missing(build: Build) -> None:
    tensors = {name: tensor for name, tensor in build("vit").state_dict().items() if "norm_cross_attn" not in name}
    report = plan_of(tensors | {STALE: torch.ones(48, 48)}, build("vit")).report
    assert [(entry.name, entry.reason) for entry in report.skipped] == [
        (STALE, "cross-attention that MONAI built and never used")
    ]
    assert report.missing == ()
    assert report.encoder_share == 1


def test_tensors_outside_the_chosen_prefix_are_said(build: Build) -> None:
    state = build("vit").state_dict()
    both = {f"{wrapper}.{name}": tensor for wrapper in ("student", "teacher") for name, tensor in state.items()}
    report = plan_of(both, build("vit")).report
    assert {entry.reason for entry in report.skipped} == {f"outside the prefix '{report.prefix}'"}
    assert len(report.skipped) == len(state)


def test_names_of_which_only_some_have_a_wrapper_are_in_one_list_each(build: Build) -> None:
    state = build("unetr").state_dict()
    mixed = {("module.net." if "vit" in name else "net.") + name: tensor for name, tensor in state.items()}
    report = plan_of(mixed, build("unetr")).report
    assert report.loaded == state.keys() and not report.skipped


def test_a_second_tensor_for_one_place_is_said(build: Build) -> None:
    state = build("unetr").state_dict()
    report = plan_of(state | {"norm.weight": torch.zeros(24)}, build("unetr")).report
    assert [(entry.name, entry.reason) for entry in report.skipped] == [
        ("norm.weight", "another tensor of the file has the same place")
    ]


def test_a_second_name_for_a_place_of_the_encoder_is_a_difference(build: Build) -> None:
    state = build("vit").state_dict()
    plan = plan_of(state | {"blocks.3.weight": torch.zeros(48)}, build("vit"))
    assert [entry.name for entry in plan.differences.only_in_file] == ["blocks.3.weight"]


def test_equal_encoders_do_not_differ(build: Build) -> None:
    for source, target in (("mae", "vit"), ("vit", "mae"), ("unetr", "unetr"), ("swin", "swin")):
        assert not plan_of(build(source).state_dict(), build(target)).differences
