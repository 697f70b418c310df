# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Names and fingerprints of the base that an adapter belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets import UNETR, ViT

from monai_essa.adapter_base import base_fingerprint, check_same_base, check_same_claims, file_name, network_name
from monai_essa.methods import APLA


def vit(seed: int = 0, layers: int = 2) -> ViT:
    torch.manual_seed(seed)
    return ViT(1, 32, 16, 24, 48, layers, 4, spatial_dims=2)


def test_names_go_to_the_file_and_back():
    net = UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2)
    assert all(network_name(net, file_name(net, name)) == name for name in net.state_dict())
    assert network_name(vit(), file_name(net, "vit.norm.bias")) == "norm.bias"


def test_fingerprint_is_of_what_stays_and_lives():
    names = set(base_fingerprint(vit(), {"norm.bias"}))
    assert "encoder:norm.weight" in names and "encoder:norm.bias" not in names
    assert not any("norm_cross_attn" in name or "position_embeddings" in name for name in names)


def test_one_changed_value_is_another_base():
    net = vit()
    record = {"fingerprint": base_fingerprint(net, set()), "network": "ViT"}
    check_same_base(net, record, Path("a.safetensors"))
    with torch.no_grad():
        net.norm.weight[3] += 1e-6
    with pytest.raises(ValueError, match="1 of .* frozen tensors differ, first 'norm.weight'"):
        check_same_base(net, record, Path("a.safetensors"))


def test_no_shared_tensor_is_another_base():
    with pytest.raises(ValueError, match="no tensor is shared"):
        check_same_base(
            vit(), {"fingerprint": {"encoder:layers.0.weight": "0"}, "network": "CNN"}, Path("a.safetensors")
        )


def test_claims_tell_another_depth():
    record = {"claims": sorted(f"encoder:{name}" for name in APLA().claims(vit())), "network": "ViT"}
    check_same_claims(vit(1), record, Path("a.safetensors"), (APLA(),))
    with pytest.raises(ValueError, match="2 are on one side only, first 'encoder:blocks.2.attn.out_proj.bias'"):
        check_same_claims(vit(layers=3), record, Path("a.safetensors"), (APLA(),))
