# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""LoRA in peft's own format: the peft package loads the folder, and its network computes what ours does."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from monai.networks.blocks.transformerblock import TransformerBlock
from monai.networks.nets import SegResNetDS, ViT

from monai_essa import adapt, save_adapter
from monai_essa.adapters.hub.folder import export_hub
from monai_essa.methods import APLA, LoRA
from tests.anatomy.own_encoders import OwnTokens, tokens_anatomy

peft = pytest.importorskip("peft", reason="the oracle is the peft package: pip install monai_essa[peft]")


def separate_vit() -> ViT:
    torch.manual_seed(0)
    net = ViT(1, 32, 16, 24, 48, 2, 4, spatial_dims=2)
    for number in range(2):
        net.blocks[number] = TransformerBlock(24, 48, 4, qkv_bias=True, use_combined_linear=False)
    return net.eval()


def described() -> OwnTokens:
    torch.manual_seed(0)
    return OwnTokens("separate").eval()


def cnn() -> SegResNetDS:
    torch.manual_seed(0)
    return SegResNetDS(2, init_filters=4, in_channels=1, out_channels=2, blocks_down=(1, 1), norm="instance").eval()


def exported(base: nn.Module, method, folder: Path, **arguments):
    """Ours, and the folder that it was written to."""
    net = adapt(copy.deepcopy(base), method, **arguments)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter))
    return net.eval(), export_hub(save_adapter(net, folder / "a.safetensors"), folder / "hub")


def first(output):
    return output[0] if isinstance(output, (tuple, list)) else output


@pytest.mark.parametrize(
    ("base", "method", "arguments", "shape"),
    [
        (separate_vit, LoRA(rank=3, alpha=7), {}, (2, 1, 32, 32)),
        (separate_vit, LoRA(rank=2, targets=("q", "k", "v", "o", "mlp"), dropout=0.1), {}, (2, 1, 32, 32)),
        (described, LoRA(rank=3, targets=("q", "k", "v")), {"anatomy": tokens_anatomy("separate")}, (2, 2, 16, 16)),
        (lambda: ViT(1, 32, 16, 24, 48, 2, 4, spatial_dims=2).eval(), LoRA(rank=2, targets=("o",)), {}, (2, 1, 32, 32)),
    ],
    ids=["query_value", "all_layers", "described", "output_of_a_fused"],
)
def test_peft_computes_the_same(base, method, arguments, shape, tmp_path: Path) -> None:
    plain = base()
    ours, written = exported(plain, method, tmp_path, **arguments)
    assert not written.without_peft
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(plain), written.path, subfolder="peft").eval()
    images = torch.rand(*shape)
    with torch.no_grad():
        expected, found = first(ours(images)), first(theirs(images))
        assert not torch.allclose(expected, first(plain(images)), atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_convolutions_of_an_encoder_have_the_format(tmp_path: Path) -> None:
    plain = cnn()
    ours, written = exported(plain, LoRA(rank=2, targets=("conv",)), tmp_path)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(plain.encoder), written.path, subfolder="peft").eval()
    images = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        for found, expected in zip(theirs(images), ours.encoder(images), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "arguments", "reason"),
    [
        (LoRA(rank=2), {}, "may compute queries, keys and values together"),
        (LoRA(rank=2, targets=("q",)), {}, "may compute queries, keys and values together"),
        (LoRA(rank=2, targets=("o",)), {"also_train": [r"norm\..*"]}, "'encoder:norm.bias' of the encoder was trained"),
        (APLA(columns=2), {}, "another method"),
    ],
)
def test_what_peft_has_no_place_for_is_left_out_with_the_reason(method, arguments, reason, tmp_path: Path) -> None:
    _, written = exported(ViT(1, 32, 16, 24, 48, 2, 4, spatial_dims=2), method, tmp_path, **arguments)
    assert reason in written.without_peft and not (written.path / "peft").exists()
