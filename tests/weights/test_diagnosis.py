# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Naming the argument that differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch.nn as nn

from monai_essa.anatomy.key_maps import KEY_MAPS
from monai_essa.anatomy.tensor_names import differences, option_behind
from monai_essa.weights.alignment import alignments
from monai_essa.weights.report import named_shapes

Build = Callable[..., nn.Module]


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("vit", {"hidden_size": 24}, "hidden_size is 24 in the file and 48 in the network"),
        ("vit", {"mlp_dim": 48}, "mlp_dim is 48 in the file and 96 in the network"),
        ("vit", {"num_layers": 2}, "number of blocks is 2 in the file and 3 in the network"),
        ("vit", {"in_channels": 4}, "in_channels is 4 in the file and 1 in the network"),
        ("vit", {"patch_size": 8}, "patch_size is 8 in the file and 16 in the network"),
        ("vit", {"spatial_dims": 2}, "spatial_dims is 2 in the file and 3 in the network"),
        ("vit", {"qkv_bias": True}, "only the file was built with qkv_bias=True"),
        ("swin", {"qkv_bias": False}, "only the network was built with qkv_bias=True"),
        ("swin", {"feature_size": 24}, "feature_size is 24 in the file and 12 in the network"),
        ("swin", {"use_v2": True}, "only the file was built with use_v2=True"),
        ("swin", {"depths": (2, 1, 1, 1)}, "number of blocks is 5 in the file and 4 in the network"),
        ("swin", {"num_heads": (2, 2, 2, 2)}, "num_heads is 2 in the file and 1 in the network"),
        ("swin", {"window_size": 5}, "the table size of window_size is 729 in the file and 125 in the network"),
        ("swin", {"patch_norm": True}, "only the file was built with patch_norm=True"),
    ],
)
def test_one_changed_argument_is_named_and_no_other(
    kind: str, changes: dict[str, Any], said: str, build: Build
) -> None:
    file, network = build(kind, **changes).state_dict(), build(kind)
    alignment = alignments(file, network, KEY_MAPS)[0]
    shapes = named_shapes(alignment.keys, file), named_shapes(alignment.places, network.state_dict())
    assert differences(*shapes) == [said]


def test_a_linear_patch_embedding_is_told_from_a_convolution(build: Build) -> None:
    file, network = build("vit", proj_type="perceptron").state_dict(), build("vit")
    alignment = alignments(file, network, KEY_MAPS)[0]
    said = differences(named_shapes(alignment.keys, file), named_shapes(alignment.places, network.state_dict()))
    assert 'only the file was built with proj_type="perceptron"' in said


def test_equal_networks_do_not_differ(build: Build) -> None:
    shapes = {name: tensor.shape for name, tensor in build("vit").state_dict().items()}
    assert differences(shapes, shapes) == []


def test_a_tensor_of_a_kind_that_both_sides_have_is_no_option() -> None:
    assert option_behind("blocks.7.attn.qkv.bias", ["blocks.0.attn.qkv.bias"]) is None
    assert option_behind("blocks.7.attn.qkv.weight", []) is None
