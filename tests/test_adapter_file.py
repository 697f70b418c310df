# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapter files: content, hand-over between networks, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, ViT
from safetensors import safe_open
from safetensors.torch import save_file

from monai_essa import adapt, load_adapter, save_adapter
from monai_essa.adapter_file import read_adapter
from monai_essa.methods import APLA, LoRA


def vit(seed: int = 0, **changes) -> ViT:
    torch.manual_seed(seed)
    arguments = {"num_layers": 12, "hidden_size": 24, "mlp_dim": 48, "num_heads": 4} | changes
    return ViT(1, 32, 16, spatial_dims=2, **arguments)


def unetr(encoder: ViT) -> UNETR:
    net = UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2)
    net.vit.load_state_dict(encoder.state_dict())
    return net


def moved(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return net


def saved(net: nn.Module, folder, **arguments):
    return save_adapter(net, folder / "adapter.safetensors", **arguments)


@pytest.mark.parametrize("method", [APLA(), APLA(columns=3), LoRA(rank=2)])
def test_adapter_of_a_vit_moves_to_a_unetr(method, tmp_path):
    encoder = vit()
    net = unetr(encoder)
    adapted = moved(adapt(encoder, method))
    load_adapter(net, saved(adapted, tmp_path))
    images = torch.rand(1, 1, 32, 32)
    assert torch.equal(net.vit(images)[0], adapted(images)[0])


def test_part_method_leaves_the_decoder_and_trains_what_the_next_stage_names(tmp_path):
    net = moved(adapt(unetr(vit()), APLA(columns=3), also_train=[r"decoder2\..*"]))
    fresh = unetr(vit())
    before = fresh.decoder2.conv_block.conv1.conv.weight.clone()
    load_adapter(fresh, saved(net, tmp_path), part="method", also_train=[r"out\..*"])
    assert torch.equal(fresh.vit.blocks[3].attn.out_proj.rows, net.vit.blocks[3].attn.out_proj.rows)
    assert torch.equal(fresh.decoder2.conv_block.conv1.conv.weight, before)
    assert fresh.out.conv.conv.bias.requires_grad and not fresh.decoder2.conv_block.conv1.conv.weight.requires_grad


def test_adapter_goes_on_with_crops_of_another_size(tmp_path):
    adapted = moved(adapt(vit(), APLA(columns=3)))
    larger = ViT(1, 64, 16, 24, 48, 12, 4, spatial_dims=2)
    larger.load_state_dict({k: v for k, v in vit().state_dict().items() if "position" not in k}, strict=False)
    load_adapter(larger, saved(adapted, tmp_path))
    assert torch.equal(larger.blocks[3].attn.out_proj.rows, adapted.blocks[3].attn.out_proj.rows)


def test_file_is_tensors_and_one_json_text(tmp_path):
    path = saved(adapt(vit(), APLA(columns=2)), tmp_path, preprocessing={"spacing": [1.0, 1.0, 1.0], "axcodes": "RAS"})
    with safe_open(path, framework="pt") as file:
        assert set(file.metadata()) == {"monai_essa"}
        record = json.loads(file.metadata()["monai_essa"])
        assert sorted(file.keys())[:3] == [
            f"encoder:blocks.0.attn.out_proj.{n}" for n in ("columns", "row_biases", "rows")
        ]
    assert record["methods"] == [{"name": "APLA", "values": {"columns": 2, "seed": 0}}]
    assert record["preprocessing"] == {"spacing": [1.0, 1.0, 1.0], "axcodes": "RAS"}
    assert "encoder:blocks.0.attn.out_proj.weight" in record["fingerprint"]
    assert not any("norm_cross_attn" in name for name in record["fingerprint"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_apla_columns_of_a_vit_b_are_under_a_megabyte(tmp_path):
    net = adapt(ViT(1, 96, 16), APLA(columns=8))
    assert saved(net, tmp_path).stat().st_size < 1_000_000


def test_another_base_is_refused_and_left_alone(tmp_path):
    path = saved(adapt(vit(), APLA()), tmp_path)
    other = vit(seed=1)
    with pytest.raises(
        ValueError, match=r"adapter.safetensors was trained on another base: \d+ of \d+ frozen tensors differ"
    ):
        load_adapter(other, path)
    adapt(other, APLA())


def test_another_method_is_refused_on_an_adapted_network(tmp_path):
    path = saved(adapt(vit(), APLA(columns=2)), tmp_path)
    with pytest.raises(ValueError, match="the network is adapted by .*LoRA"):
        load_adapter(adapt(vit(), LoRA()), path)
    with pytest.raises(ValueError, match="'columns': 3"):
        load_adapter(adapt(vit(), APLA(columns=3)), path)


def test_another_depth_is_refused_and_left_alone(tmp_path):
    torch.manual_seed(0)
    deep = vit()
    shallow = vit(num_layers=6)
    shallow.load_state_dict(deep.state_dict(), strict=False)
    path = saved(adapt(deep, APLA(columns=2)), tmp_path)
    with pytest.raises(ValueError, match="12 are on one side only, first 'encoder:blocks.10.attn.out_proj.bias'"):
        load_adapter(shallow, path)
    adapt(shallow, APLA())


def test_truncated_and_foreign_files_are_refused(tmp_path):
    path = saved(adapt(vit(), APLA()), tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        load_adapter(vit(), path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickled.pt")
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        read_adapter(tmp_path / "pickled.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="no adapter of monai_essa"):
        read_adapter(tmp_path / "plain.safetensors")
    with pytest.raises(FileNotFoundError, match="no adapter file at"):
        read_adapter(tmp_path / "absent.safetensors")


def test_a_failed_save_leaves_the_file_that_was_there(tmp_path):
    path = saved(adapt(vit(), APLA()), tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="was not written, preprocessing: expected plain values"):
        save_adapter(adapt(vit(), LoRA()), path, preprocessing={"spacing": object()})
    assert path.read_bytes() == before


@dataclasses.dataclass(frozen=True)
class NormOnly:
    """A method from outside the library."""

    def claims(self, network: nn.Module) -> set[str]:
        return {"norm.weight"}

    def inject(self, network: nn.Module) -> set[str]:
        return {"norm.weight"}


def test_a_method_from_outside_is_rebuilt_only_from_the_class_given(tmp_path):
    path = saved(moved(adapt(vit(), NormOnly())), tmp_path)
    with pytest.raises(ValueError, match="method 'NormOnly' is unknown; pass its class"):
        load_adapter(vit(), path)
    assert load_adapter(vit(), path, methods=[NormOnly]).norm.weight.requires_grad


def test_part_must_be_known(tmp_path):
    with pytest.raises(ValueError, match="part must be 'all' or 'method', got 'some'"):
        load_adapter(vit(), saved(adapt(vit(), APLA()), tmp_path), part="some")
