# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What a stage leaves behind."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.networks.nets import UNETR, SwinUNETR, ViT
from monai.networks.nets.swin_unetr import SwinTransformer

from monai_essa import adapt, load_adapter, merge
from monai_essa.engines import StageOutputs
from monai_essa.methods import APLA


def finished(net, folder, handover):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    trainer = Engine(lambda engine, batch: None)
    StageOutputs(net, folder, handover, {"spacing": [1.0, 1.0]}).attach(trainer)
    trainer.run([0], max_epochs=1)
    return torch.load(folder / "model.pt", weights_only=True)


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


def test_unknown_handover_is_refused(tmp_path):
    with pytest.raises(ValueError, match="handover must be 'encoder' or 'network', got 'decoder'"):
        StageOutputs(unetr(), tmp_path, "decoder")
