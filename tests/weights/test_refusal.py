# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Files that are refused."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, SegResNet, SegResNetDS, UNet
from safetensors.torch import save_file

from monai_essa import adapt, load_weights
from monai_essa.methods import APLA, LoRA

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
        ("vit", {"qkv_bias": True}, "only the file was built with qkv_bias=True"),
        ("swin", {"num_heads": (2, 2, 2, 2)}, "num_heads is 2 in the file and 1"),
        ("swin", {"window_size": 5}, "window_size is 729 in the file and 125"),
        ("swin", {"depths": (2, 1, 1, 1)}, "number of blocks is 5 in the file and 4"),
        ("swin", {"patch_norm": True}, "only the file was built with patch_norm=True"),
        ("swin", {"qkv_bias": False}, "only the network was built with qkv_bias=True"),
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
    assert_refused(build("swin", in_channels=3), path, "in_channels is 2 in the file and 3")


def segresnet(**changes: Any) -> nn.Module:
    return SegResNet(**{"init_filters": 8, "blocks_down": (1, 2, 2), "blocks_up": (1, 1)} | changes)


def segresnet_ds(**changes: Any) -> nn.Module:
    return SegResNetDS(**{"init_filters": 8, "blocks_down": (1, 1), "norm": "batch"} | changes)


def unet(**changes: Any) -> nn.Module:
    return UNet(
        **{"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": (4, 8), "strides": (2,)} | changes
    )


@pytest.mark.parametrize(
    ("make", "file", "network", "match"),
    [
        (segresnet, {"blocks_down": (1, 2, 3)}, {}, "number of blocks is 6 in the file and 5"),
        (segresnet, {}, {"blocks_down": (1, 2, 3)}, "number of blocks is 5 in the file and 6"),
        (segresnet, {"blocks_down": (1, 2, 2, 1), "blocks_up": (1, 1, 1)}, {}, "only in the file: 'down_layers.3.0"),
        (segresnet, {"init_filters": 16}, {}, "init_filters is 16 in the file and 8"),
        (segresnet, {"in_channels": 4}, {"in_channels": 3}, "in_channels is 4 in the file and 3"),
        (segresnet, {"spatial_dims": 2}, {}, "spatial_dims is 2 in the file and 3"),
        (segresnet, {"norm": "batch"}, {}, "only the file was built with batch normalisation"),
        (segresnet, {}, {"norm": "batch"}, "only the network was built with batch normalisation"),
        (segresnet_ds, {"norm": "instance"}, {}, "only the network was built with batch normalisation"),
        (segresnet_ds, {}, {"norm": ("group", {"num_groups": 2})}, "only the file was built with batch normalisation"),
        (unet, {"norm": "batch"}, {}, "only the file was built with batch normalisation"),
        (unet, {"channels": (4, 8, 16), "strides": (2, 2)}, {}, "only in the file"),
        (unet, {}, {"channels": (4, 8, 16), "strides": (2, 2)}, "only in the network"),
        (unet, {"num_res_units": 2}, {"num_res_units": 1}, r"only in the file: 'model\.0\.conv\.unit1"),
        (unet, {"num_res_units": 2}, {}, "none of its .* tensors has a name of UNet"),
        (unet, {"act": "relu"}, {}, "only in the network: 'model.0.adn.A.weight'"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_another_cnn_is_refused_with_the_reason(
    make: Callable[..., nn.Module], file: dict[str, Any], network: dict[str, Any], match: str, write: Write
) -> None:
    assert_refused(make(**network), write(make(**file).state_dict()), match)


@pytest.mark.parametrize("buffer", ["running_mean", "num_batches_tracked"])
def test_a_lost_buffer_is_refused(buffer: str, write: Write) -> None:
    state = segresnet_ds().state_dict()
    lost = next(name for name in state if name.endswith(buffer))
    del state[lost]
    assert_refused(segresnet_ds(), write(state), f"only in the network: '{lost}'")
    assert load_weights(segresnet_ds(), write(state), accept=[rf".*\.{buffer}"]).accepted[0].name == lost


def test_windows_that_pair_other_positions_are_refused(build: Build, write: Write) -> None:
    state = build("swin").state_dict()
    name = "swinViT.layers1.0.blocks.0.attn.relative_position_index"
    state[name] = state[name].flip(0)
    assert_refused(build("swin"), write(state), rf"'{name}' \(other values than the network's")


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda tensor: tensor.to(torch.int8), "int8 values in the file, float32 in the network"),
        (lambda tensor: tensor > 0, "bool values in the file"),
        (lambda tensor: tensor.to(torch.complex64), "complex values"),
        (lambda tensor: tensor.to_sparse(), "a sparse tensor"),
        (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "a quantised tensor"),
        (lambda tensor: tensor.to("meta"), "a meta tensor"),
        (lambda tensor: tensor[:0], r"shape \(0,\) in the file"),
        (lambda tensor: torch.zeros(1).expand(48), "declares 48 values and stores fewer"),
        (lambda tensor: torch.zeros(1).expand(10**6, 10**6), "declares 1,000,000,000,000 values and stores fewer"),
        (lambda tensor: tensor.double() * 1e300 + 1e300, "would get NaN or infinity"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_tensors_that_hold_no_such_values_are_refused(
    damage: Callable[[torch.Tensor], torch.Tensor], match: str, build: Build, write: Write
) -> None:
    state = build("vit").state_dict()
    state["norm.weight"] = damage(state["norm.weight"])
    assert_refused(build("vit"), write(state), match)


def test_values_too_large_for_the_networks_precision_are_refused(build: Build, write: Write) -> None:
    state = build("vit").state_dict()
    state["norm.weight"] = torch.full((48,), 1e6)
    assert_refused(build("vit").half(), write(state), "'norm.weight' would get NaN or infinity")


@pytest.mark.parametrize("name", ["blocks.0.ls1.gamma", "register_tokens", "blocks.0.attn.rel_pos_h"])
def test_a_tensor_of_the_encoder_without_a_rule_is_refused(name: str, build: Build, write: Write) -> None:
    path = write(build("vit").state_dict() | {name: torch.ones(1, 1, 48)})
    assert_refused(build("vit"), path, f"only in the file: '{name}'")
    assert [entry.name for entry in load_weights(build("vit"), path, accept=[name]).accepted] == [name]


def test_positions_without_a_grid_are_refused_and_the_grid_is_asked_for(build: Build, write: Write) -> None:
    path = write(build("vit", img_size=(32, 32, 48)).state_dict())
    assert_refused(build("vit"), path, "give source_grid")


@pytest.mark.parametrize(("grid", "img_size"), [((8, 4, 2), (128, 64, 32)), ((1, 8, 8), (16, 128, 128))])
def test_a_cubic_file_is_not_matched_by_its_count(
    grid: tuple[int, ...], img_size: tuple[int, ...], build: Build, write: Write
) -> None:
    cubic = build("vit", img_size=64, hidden_size=24, mlp_dim=48, num_layers=12)
    path, network = write(cubic.state_dict()), build("unetr", img_size=img_size)
    assert_refused(network, path, re.escape(f"such as (4, 4, 4) or {grid}; give source_grid"))
    report = load_weights(network, path, source_grid=(4, 4, 4))
    assert [entry.reason for entry in report.interpolated] == [f"grid (4, 4, 4) -> {grid}"]


def test_positions_stay_where_the_caller_accepts_it(build: Build, write: Write) -> None:
    path = write(build("vit", img_size=(32, 32, 48)).state_dict())
    network = build("vit", pos_embed_type="sincos")
    assert_refused(network, path, "give source_grid")
    report = load_weights(network, path, accept=[r"patch_embedding\.position_embeddings"])
    assert [entry.name for entry in report.missing] == ["patch_embedding.position_embeddings"]


def test_a_file_without_a_common_name_is_refused_whatever_is_accepted(build: Build, write: Write) -> None:
    path = write({"conv1.weight": torch.ones(3), "fc.bias": torch.ones(3)})
    match = "none of its 2 tensors has a name of UNETR.*'conv1.weight'"
    assert_refused(build("unetr"), path, match, accept=[".*"])


def test_what_is_accepted_is_reported_and_nothing_else_passes(build: Build, write: Write) -> None:
    path = write(build("vit", num_layers=2).state_dict())
    assert_refused(build("vit"), path, "number of blocks is 2", accept=[r"blocks\.2\.attn\..*"])
    report = load_weights(build("vit"), path, accept=[r"blocks\.2\..*"])
    assert {entry.name.rpartition(".")[0].partition(".")[0] for entry in report.accepted} == {"blocks"}
    assert len(report.accepted) == len(report.missing)
    assert 0.5 < report.encoder_share < 0.99


@pytest.mark.parametrize(
    ("accept", "match"),
    [("norm.weight", "accept: expected a list"), (["("], "accept: .* is not a regular"), ([r"(a+)+b"], "for ever")],
)
def test_unsound_patterns_are_refused(accept: Any, match: str, build: Build, write: Write) -> None:
    with pytest.raises(ValueError, match=match):
        load_weights(build("vit"), write(build("vit").state_dict()), accept=accept)


def test_values_that_are_not_finite_are_refused(build: Build, write: Write) -> None:
    state = build("vit").state_dict()
    state["blocks.1.attn.qkv.weight"][3, 3] = float("nan")
    assert_refused(build("vit"), write(state), r"'blocks\.1\.attn\.qkv\.weight' would get NaN or infinity")


@pytest.mark.parametrize(
    "method", [APLA(), APLA(columns=4), LoRA()], ids=lambda value: getattr(value, "__name__", str(value))
)
def test_an_adapted_network_is_refused(method: Any, build: Build, write: Write) -> None:
    path = write(build("vit").state_dict())
    with pytest.raises(ValueError, match=r"load before patching: adapt\(...\) comes after load_weights"):
        load_weights(adapt(build("vit"), method), path)


def test_a_network_with_an_adapted_part_is_refused(build: Build, write: Write) -> None:
    network = build("unetr")
    assert isinstance(network, UNETR)
    adapt(network.vit, APLA())
    with pytest.raises(ValueError, match="UNETR is adapted; load before patching"):
        load_weights(network, write(build("unetr").state_dict()))


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_no_damage_to_a_file_gives_more_than_one_line_or_half_a_network(
    form: str, build: Build, tmp_path: Path
) -> None:
    """Bytes are overwritten, cut out and doubled, most of them in the header and the pickle, by a fixed seed."""
    network, draw = build("vit", num_layers=1), random.Random(0)
    path = tmp_path / f"weights.{form}"
    if form == "torch":
        torch.save({"state_dict": network.state_dict(), "epoch": 3}, path)
    else:
        save_file(dict(network.state_dict()), path)
    whole, before = path.read_bytes(), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    refused = 0
    for _ in range(150):
        path.write_bytes(damaged(whole, draw))
        try:
            load_weights(network, path)
            network.load_state_dict(before)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and path.name in str(error), error
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert refused > 50


def damaged(whole: bytes, draw: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(draw.randint(1, 4)):
        end = len(content) if draw.random() < 0.3 else min(3000, len(content))
        start = draw.randrange(end)
        stop = start + draw.randint(0, 6)
        new = draw.choice([draw.randbytes(draw.randint(0, 6)), bytes(content[start:stop]) * 2, b"9" * 12, b"\xff" * 8])
        content[start:stop] = new
    return bytes(content[: draw.randrange(len(content))]) if draw.random() < 0.2 else bytes(content)
