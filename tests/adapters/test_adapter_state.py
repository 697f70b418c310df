# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""An adapter as a dictionary of tensors: what a file would hold, and refused for what a file is refused for."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, ViT

from monai_essa import adapt, adapter_state_dict, disable_adapter, load_adapter_state_dict, save_adapter
from monai_essa.adapters.file import read_adapter
from monai_essa.methods import APLA, LoRA

ROWS, COLUMNS = "encoder:blocks.1.attn.out_proj.rows", "encoder:blocks.1.attn.out_proj.columns"
BIAS = "network:out.conv.conv.bias"


def unetr(seed: int = 0) -> nn.Module:
    torch.manual_seed(0)
    net = adapt(UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2).eval(), APLA(columns=3), also_train=[r"out\..*"])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return net


def values(net: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in net.state_dict().items()}


def test_the_state_is_what_a_file_holds(tmp_path):
    net = unetr()
    state, file = adapter_state_dict(net), read_adapter(save_adapter(net, tmp_path / "a.safetensors"))
    assert state.keys() == file.tensors.keys() and {ROWS, COLUMNS, BIAS} < state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in file.tensors.items())


def test_the_state_is_a_copy():
    net = unetr()
    before = values(net)
    for tensor in adapter_state_dict(net).values():
        tensor.zero_()
    assert values(net) == before


@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel])
def test_a_state_goes_from_one_network_to_another_and_an_optimizer_goes_on(wrap):
    one, two = unetr(seed=1), unetr(seed=2)
    parameters, wrapped = list(two.parameters()), wrap(two)
    assert load_adapter_state_dict(wrapped, adapter_state_dict(wrap(one))) is wrapped
    assert values(two) == values(one)
    assert all(now is before for now, before in zip(two.parameters(), parameters, strict=True))


def test_the_method_alone_leaves_the_head():
    one, two = unetr(seed=1), unetr(seed=2)
    head = two.out.conv.conv.bias.clone()
    load_adapter_state_dict(two, adapter_state_dict(one), part="method")
    assert torch.equal(two.out.conv.conv.bias, head)
    assert torch.equal(two.vit.blocks[1].attn.out_proj.rows, one.vit.blocks[1].attn.out_proj.rows)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (ROWS, None, rf"lacks '{ROWS}' \(1 tensors\); it was not saved whole"),
        (BIAS, None, rf"lacks '{BIAS}' \(1 tensors\), which learns here"),
        (ROWS, torch.zeros(3, 23), r"of shape \(3, 23\), the network has shape \(3, 24\)"),
        (ROWS, torch.full((3, 24), float("nan")), f"'{ROWS}' holds NaN or infinity"),
        (BIAS, torch.full((2,), float("inf")), f"'{BIAS}' holds NaN or infinity"),
        (COLUMNS, torch.tensor([1, 1, 2]), f"'{COLUMNS}' holds an index twice"),
        (COLUMNS, torch.tensor([1, 2, 24]), "holds the index 24 of 24 rows"),
        (COLUMNS, torch.tensor([1.0, 2.0, 3.0]), "in torch.float32, the network has torch.int64"),
        ("encoder:norm.weight", torch.ones(24), "holds 'vit.norm.weight', which is frozen here"),
        ("encoder:norm.scale", torch.ones(24), "the network has no such tensor"),
        ("vit.norm.weight", torch.ones(24), "expected names like 'encoder:norm.weight'.* got 'vit.norm.weight'"),
        (ROWS, [[0.0]], f"'{ROWS}' is a list, expected a tensor"),
    ],
)
def test_a_state_that_does_not_fit_is_one_line_and_changes_nothing(name, value, said):
    net, state = unetr(), adapter_state_dict(unetr(seed=1)) | {name: value}
    if value is None:
        del state[name]
    before = values(net)
    with pytest.raises(ValueError, match=f"^the adapter state[^\n]*{said}[^\n]*$"):
        load_adapter_state_dict(net, state)
    assert values(net) == before


def test_a_state_of_other_methods_a_plain_network_and_an_unknown_part_are_refused():
    state = adapter_state_dict(adapt(ViT(1, 32, 16, 24, 48, 12, 4, spatial_dims=2), LoRA(rank=2)))
    net = unetr()
    with pytest.raises(ValueError, match="lacks 'encoder:blocks.0.attn.out_proj.columns'"):
        load_adapter_state_dict(net, state)
    with pytest.raises(ValueError, match="part must be 'all' or 'method', got 'some'"):
        load_adapter_state_dict(net, state, part="some")
    plain = ViT(1, 32, 16, 24, 48, 2, 4)
    for call in (adapter_state_dict, lambda network: load_adapter_state_dict(network, state)):
        with pytest.raises(ValueError, match="ViT is not adapted"):
            call(plain)
        with disable_adapter(net), pytest.raises(ValueError, match="is its base within disable_adapter"):
            call(net)
