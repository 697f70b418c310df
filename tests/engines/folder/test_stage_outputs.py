# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a stage leaves behind."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
import torch
import torch.nn as nn
from ignite.engine import Engine
from monai.networks.nets import UNETR, SegResNet, SwinUNETR, ViT
from monai.networks.nets.swin_unetr import SwinTransformer
from safetensors.torch import load_file

from monai_essa import adapt, load_adapter, load_weights, merge
from monai_essa.engines import StageOutputs
from monai_essa.methods import APLA, LoRA, NotMergeable


def finished(net, folder, handover):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    trainer = Engine(lambda engine, batch: None)
    StageOutputs(net, folder, handover, {"spacing": [1.0, 1.0]}).attach(trainer)
    trainer.run([0], max_epochs=1)
    return torch.load(folder / "model.pt", weights_only=True) if (folder / "model.pt").exists() else None


class Bent(nn.Module):
    """A linear layer with a factor inside a tanh, which no linear layer computes."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.bend = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        y = nn.functional.linear(x, self.weight, self.bias)
        return y + self.bend * y.tanh()

    def plain(self):
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        return layer

    def merged(self):
        raise NotMergeable("trace the adapted network instead")


@dataclass(frozen=True)
class Bending:
    def claims(self, network):
        return {"vit.blocks.0.mlp.linear1.weight"}

    def inject(self, network):
        network.set_submodule("vit.blocks.0.mlp.linear1", Bent(network.vit.blocks[0].mlp.linear1))
        return {"vit.blocks.0.mlp.linear1.bend"}


def unetr() -> UNETR:
    torch.manual_seed(0)
    return UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2)


def test_handover_of_a_unetrs_encoder_is_a_stock_vit(tmp_path):
    net = adapt(unetr(), APLA(columns=2))
    state = finished(net, tmp_path, "encoder")
    stock = ViT(1, 32, 16, 24, 48, 12, 4, spatial_dims=2).eval()
    stock.load_state_dict(state, strict=True)
    images = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(stock(images)[0], net.eval().vit(images)[0], rtol=1e-5, atol=1e-5)


def test_handover_of_a_swin_unetrs_encoder_is_a_stock_swin_transformer(tmp_path):
    net = adapt(SwinUNETR(1, 2, feature_size=12, spatial_dims=2), APLA())
    state = finished(net, tmp_path, "encoder")
    stock = SwinTransformer(1, 12, (7, 7), (2, 2), (2, 2, 2, 2), (3, 6, 12, 24), spatial_dims=2)
    stock.load_state_dict(state, strict=True)


def test_handover_of_a_cnns_encoder_leaves_out_the_decoder_that_did_not_learn(tmp_path):
    net = adapt(SegResNet(2, 8, blocks_down=(1, 1), blocks_up=(1,)), LoRA(rank=2, targets=("conv",)))
    state = finished(net, tmp_path, "encoder")
    whole = SegResNet(2, 8, blocks_down=(1, 1), blocks_up=(1,)).state_dict()
    assert set(state) == {name for name in whole if not name.startswith(("up_", "conv_final"))}
    fresh = SegResNet(2, 8, out_channels=3, blocks_down=(1, 1), blocks_up=(1,)).eval()
    assert not load_weights(fresh, tmp_path / "model.pt").skipped
    images = torch.rand(1, 1, 16, 16)
    assert torch.equal(fresh.encode(images)[0], merge(net).eval().encode(images)[0])


def test_handover_of_the_network_is_the_whole_stock_class(tmp_path):
    net = adapt(unetr(), APLA(), also_train=[r"out\..*"])
    state = finished(net, tmp_path, "network")
    stock = unetr()
    stock.load_state_dict(state, strict=True)
    images = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(stock.eval()(images), merge(net).eval()(images), rtol=1e-5, atol=1e-5)


def test_adapter_file_brings_the_base_to_the_same_place(tmp_path):
    net = adapt(unetr(), APLA(columns=2))
    finished(net, tmp_path, "encoder")
    again = load_adapter(unetr(), tmp_path / "adapter.safetensors")
    assert torch.equal(again.vit.blocks[4].attn.out_proj.rows, net.vit.blocks[4].attn.out_proj.rows)
    assert "encoder" in (tmp_path / "summary.txt").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.safetensors", "model.pt", "summary.txt"]


@pytest.mark.parametrize("handover", ["encoder", "network"])
def test_what_cannot_be_merged_is_handed_over_as_the_adapter(tmp_path, caplog, handover):
    net = adapt(unetr(), Bending())
    with caplog.at_level(logging.WARNING):
        assert finished(net, tmp_path, handover) is None
    (record,) = caplog.records
    assert record.getMessage() == (
        f"no model.pt in {tmp_path}, adapter.safetensors holds the result: start the next stage from it "
        "(start: adapter); trace the adapted network instead"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.safetensors", "summary.txt"]
    tensors = load_file(tmp_path / "adapter.safetensors")
    assert torch.equal(tensors["encoder:blocks.0.mlp.linear1.bend"], net.vit.blocks[0].mlp.linear1.bend)


def test_handover_of_the_adapter_merges_nothing(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert finished(adapt(unetr(), APLA(columns=2)), tmp_path, "adapter") is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.safetensors", "summary.txt"]


def test_unknown_handover_is_refused(tmp_path):
    with pytest.raises(ValueError, match="handover must be one of adapter, encoder, network, got 'decoder'"):
        StageOutputs(unetr(), tmp_path, "decoder")


@pytest.mark.parametrize("card", [{"labels": {"@x": 1}}, {"spacing": [float("nan")]}, {"spacing": ["1 mm"]}])
def test_a_card_that_could_not_be_saved_is_refused_before_the_training(card, tmp_path):
    with pytest.raises(ValueError, match=r"^preprocessing[^\n]*$"):
        StageOutputs(unetr(), tmp_path, preprocessing=card)
