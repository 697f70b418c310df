# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Names and identity of the base that an adapter belongs to."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from monai.networks.nets import UNETR, SegResNetDS, ViT

from monai_essa import adapt
from monai_essa.adapters.identity import (
    base_fingerprint,
    base_identity,
    check_same_base,
    check_same_claims,
    file_name,
    network_name,
)
from monai_essa.anatomy import keep_grid
from monai_essa.methods import APLA, BitFit, FullTuning, LoRA

PATH = Path("a.safetensors")


def vit(seed: int = 0, layers: int = 2, img_size: int | tuple[int, int] = 32, **changes) -> ViT:
    torch.manual_seed(seed)
    return ViT(1, img_size, 16, 24, 48, layers, **({"num_heads": 4, "spatial_dims": 2} | changes))


def record(net: torch.nn.Module, held: tuple[str, ...] = ()) -> dict:
    return base_identity(net, held) | {"network": type(net).__name__}


def test_names_go_to_the_file_and_back():
    net = UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2)
    assert all(network_name(net, file_name(net, name)) == name for name in net.state_dict())
    assert network_name(vit(), file_name(net, "vit.norm.bias")) == "norm.bias"


def test_fingerprint_is_of_what_the_file_does_not_hold_and_lives():
    names = set(base_fingerprint(vit(), {"encoder:norm.bias"}))
    assert "encoder:norm.weight" in names and "encoder:norm.bias" not in names
    assert "encoder:patch_embedding.position_embeddings" in names
    assert not any("norm_cross_attn" in name for name in names)


def test_buffers_of_the_encoder_are_a_part_of_the_base():
    net = SegResNetDS(2, 8, blocks_down=(1, 1))
    there = record(net)
    check_same_base(net, there, PATH, ())
    next(buffer for name, buffer in net.named_buffers() if name.endswith("running_mean")).add_(1e-3)
    with pytest.raises(ValueError, match=r"1 of \d+ frozen tensors differ, first 'encoder.*running_mean'"):
        check_same_base(net, there, PATH, ())


@pytest.mark.parametrize("method", [APLA(columns=3), LoRA(rank=2), BitFit(), FullTuning()])
def test_an_adapted_network_has_the_identity_of_its_base(method):
    there = record(vit())
    net = adapt(vit(), method)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    assert record(net) == there
    check_same_base(net, there, PATH, ())


def test_one_changed_value_is_another_base():
    net = vit()
    there = record(net)
    check_same_base(net, there, PATH, ())
    with torch.no_grad():
        net.norm.weight[3] += 1e-6
    with pytest.raises(ValueError, match="1 of .* frozen tensors differ, first 'norm.weight'"):
        check_same_base(net, there, PATH, ())


def test_one_changed_value_at_the_end_of_the_longest_tensor_is_another_base():
    net = vit()
    there = record(net)
    name, longest = max(net.named_parameters(), key=lambda named: named[1].numel())
    with torch.no_grad():
        longest.view(-1)[-1] += 1e-3
    with pytest.raises(ValueError, match=f"1 of .* frozen tensors differ, first '{name}'"):
        check_same_base(net, there, PATH, ())


def test_no_shared_tensor_is_another_base():
    there = record(vit()) | {"fingerprint": {"encoder:layers.0.weight": "0"}, "network": "CNN"}
    with pytest.raises(ValueError, match="no tensor is shared"):
        check_same_base(vit(), there, PATH, ())


@pytest.mark.parametrize(
    ("there", "here", "first", "side"),
    [
        ({"qkv_bias": True}, {}, "encoder:blocks.0.attn.qkv.bias", "the file"),
        ({}, {"qkv_bias": True}, "encoder:blocks.0.attn.qkv.bias", "this network"),
        ({"layers": 3}, {}, "encoder:blocks.2.attn.out_proj.bias", "the file"),
        ({}, {"layers": 3}, "encoder:blocks.2.attn.out_proj.bias", "this network"),
        ({"classification": True}, {}, "encoder:cls_token", "the file"),
    ],
)
def test_a_tensor_on_one_side_only_is_another_base(there, here, first, side):
    net = vit(**here)
    net.load_state_dict(vit(**there).state_dict(), strict=False)
    with pytest.raises(ValueError, match=rf"are on one side only, first '{first}' \({side}\)"):
        check_same_base(net, record(vit(**there)), PATH, ())


def test_settings_without_a_tensor_make_another_base():
    net = vit(num_heads=8)
    net.load_state_dict(vit().state_dict())
    with pytest.raises(ValueError, match=r"first 'blocks.0.attn': SABlock num_heads=4 [^\n]*, SABlock num_heads=8"):
        check_same_base(net, record(vit()), PATH, ())


def test_claims_tell_another_depth():
    there = {"claims": sorted(f"encoder:{name}" for name in APLA().claims(vit())), "network": "ViT"}
    check_same_claims(vit(1), there, PATH, (APLA(),))
    with pytest.raises(ValueError, match="2 are on one side only, first 'encoder:blocks.2.attn.out_proj.bias'"):
        check_same_claims(vit(layers=3), there, PATH, (APLA(),))


def with_positions(net: torch.nn.Module, of: torch.nn.Module) -> torch.nn.Module:
    """Give a network the tensors of another, all but position embeddings, which it draws anew."""
    state = {name: tensor for name, tensor in of.state_dict().items() if "position_embeddings" not in name}
    net.load_state_dict(state, strict=False)
    return net


def test_positions_of_an_equal_grid_are_compared():
    with pytest.raises(ValueError, match="1 of .* frozen tensors differ, first 'patch_embedding.position_embeddings'"):
        check_same_base(with_positions(vit(seed=5), vit()), record(vit()), PATH, ())


def test_positions_of_another_grid_are_left_out_and_logged(caplog):
    caplog.set_level(logging.INFO)
    check_same_base(with_positions(vit(img_size=64), vit()), record(vit()), PATH, ())
    assert "[4] there, [16] here; position embeddings were interpolated and are not compared" in caplog.text


def test_two_grids_of_one_count_are_not_compared_where_both_are_known(caplog):
    caplog.set_level(logging.INFO)
    torch.manual_seed(0)
    there = UNETR(1, 2, (32, 128), 4, 24, 48, 4, spatial_dims=2)
    here = with_positions(UNETR(1, 2, (64, 64), 4, 24, 48, 4, spatial_dims=2), there)
    check_same_base(here, record(there), PATH, ())
    assert "[2, 8] there, [4, 4] here" in caplog.text


def test_format_1_is_compared_as_far_as_it_goes_with_one_warning(caplog):
    old = {name: value for name, value in record(vit()).items() if name in ("fingerprint", "network")}
    old["fingerprint"] = {n: digest for n, digest in old["fingerprint"].items() if "position_embeddings" not in n}
    check_same_base(vit(), old, PATH, ())
    warned = [line for line in caplog.messages if "format 1: heads, window and checksum" in line]
    assert len(warned) == 1
    with pytest.raises(ValueError, match=r"first 'encoder:blocks.0.attn.qkv.bias' \(this network\)"):
        check_same_base(with_positions(vit(qkv_bias=True), vit()), old, PATH, ())


def test_a_vit_that_keeps_its_grid_is_compared_by_it(caplog):
    """Both have 8 tokens; their position embeddings lie on other grids."""
    wide, tall = vit(img_size=(64, 32)), vit(seed=1, img_size=(32, 64))
    tall.load_state_dict(wide.state_dict() | {"patch_embedding.position_embeddings": torch.randn(1, 8, 24)})
    keep_grid(wide, (4, 2))
    keep_grid(tall, (2, 4))
    with caplog.at_level(logging.INFO):
        check_same_base(tall, record(wide), PATH, ())
    assert "[4, 2] there, [2, 4] here" in caplog.text
