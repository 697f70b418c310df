# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Files that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn

from monai_essa import adapt
from monai_essa.methods import APLA, LoRA
from monai_essa.weights import load_weights

Build = Callable[..., nn.Module]
Write = Callable[..., Path]


def assert_refused(network: nn.Module, path: Path, match: str, **arguments: Any) -> None:
    """The message is one line and names the file; every tensor of the network is as it was."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=match) as caught:
        load_weights(network, path, **arguments)
    assert str(caught.value).count("\n") == 0
    assert path.name in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "changes", "match"),
    [
        ("vit", {"hidden_size": 24}, "hidden_size is 24 in the file and 48"),
        ("vit", {"num_layers": 6}, "number of blocks is 6 in the file and 3"),
        ("vit", {"num_layers": 1}, "number of blocks is 1 in the file and 3"),
        ("vit", {"patch_size": 8}, "patch_size is 8 in the file and 16"),
        ("vit", {"proj_type": "perceptron"}, "proj_type"),
        ("swin", {"feature_size": 24}, "feature_size is 24 in the file and 12"),
        ("swin", {"use_v2": True}, "only the file was built with use_v2=True"),
    ],
)
def test_another_architecture_is_refused_with_the_reason(
    kind: str, changes: dict[str, Any], match: str, build: Build, write: Write
) -> None:
    assert_refused(build(kind), write(build(kind, **changes).state_dict()), match)


def test_a_file_for_the_first_version_is_refused_by_the_second(build: Build, write: Write) -> None:
    path = write(build("swin").state_dict())
    assert_refused(build("swin", use_v2=True), path, "only the network was built with use_v2=True")


def test_a_channel_change_without_a_rule_is_refused(build: Build, write: Write) -> None:
    path = write(build("vit", in_channels=2).state_dict())
    assert_refused(build("vit", in_channels=4), path, "in_channels is 2 in the file and 4 in the network")


def test_a_patch_embedding_left_out_is_refused_however_small_its_share(build: Build, write: Write) -> None:
    path = write(build("swin", in_channels=2).state_dict())
    match = r"99\.\d% .* in_channels is 2 in the file and 3"
    assert_refused(build("swin", in_channels=3), path, match)


def test_positions_without_a_grid_are_refused_and_the_grid_is_asked_for(build: Build, write: Write) -> None:
    path = write(build("vit", img_size=(32, 32, 48)).state_dict())
    assert_refused(build("vit"), path, "give source_grid")


def test_positions_that_are_not_learned_may_stay(build: Build, write: Write) -> None:
    path = write(build("vit", img_size=(32, 32, 48)).state_dict())
    report = load_weights(build("vit", pos_embed_type="sincos"), path)
    assert [entry.name for entry in report.missing] == ["patch_embedding.position_embeddings"]


def test_a_file_without_a_common_name_is_refused_even_at_threshold_zero(build: Build, write: Write) -> None:
    path = write({"conv1.weight": torch.ones(3), "fc.bias": torch.ones(3)})
    assert_refused(build("unetr"), path, "none of its 2 tensors has a name of UNETR.*'conv1.weight'", threshold=0)


def test_the_threshold_decides(build: Build, write: Write) -> None:
    path = write(build("vit", num_layers=2).state_dict())
    assert_refused(build("vit"), path, r"9\d\.\d% .* expected at least 99%", threshold=0.99)
    assert load_weights(build("vit"), path, threshold=0.5).encoder_share < 0.99


def test_values_that_are_not_finite_are_refused(build: Build, write: Write) -> None:
    state = build("vit").state_dict()
    state["blocks.1.attn.qkv.weight"][3, 3] = float("nan")
    assert_refused(build("vit"), write(state), r"'blocks\.1\.attn\.qkv\.weight' would get NaN or infinity")


@pytest.mark.parametrize("method", [APLA(), APLA(columns=4), LoRA()], ids=str)
def test_an_adapted_network_is_refused(method: Any, build: Build, write: Write) -> None:
    path = write(build("vit").state_dict())
    with pytest.raises(ValueError, match=r"load before patching: adapt\(...\) comes after load_weights"):
        load_weights(adapt(build("vit"), method), path)
