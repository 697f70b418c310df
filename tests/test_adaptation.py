# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""adapt, merge, disable_adapter and summary beyond the contract of methods and networks."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import UNETR, SegResNetDS, ViT

from monai_essa import adapt, disable_adapter, merge, save_adapter, summary
from monai_essa.adapter_file import read_adapter
from monai_essa.methods import APLA, SSF, FullTuning, LoRA, NormTuning


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(1, 32, 16, 24, 48, 2, 4)


def batch_norm_unetr() -> UNETR:
    torch.manual_seed(0)
    return UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2, norm_name="batch")


def test_forward_in_train_mode_without_the_adapter_leaves_the_base_as_it_was():
    torch.manual_seed(0)
    net = adapt(SegResNetDS(2, 8, blocks_down=(1, 1)).train(), NormTuning())
    images = torch.rand(2, 1, 16, 16)
    for _ in range(2):
        net(images)
    learned = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with disable_adapter(net):
        net(images)
    with disable_adapter(net):
        statistics = [tensor for name, tensor in net.state_dict().items() if name.endswith("running_mean")]
        assert len(statistics) > 2 and not any(tensor.any() for tensor in statistics[:4])  # those of a fresh network
    assert all(torch.equal(tensor, learned[name]) for name, tensor in net.state_dict().items())


def test_batch_norm_with_an_adapter_beside_it_is_frozen_and_no_part_of_the_file(tmp_path):
    net = adapt(SegResNetDS(2, 8, blocks_down=(1, 1)).train(), SSF())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net(torch.rand(2, 1, 16, 16))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    held = read_adapter(save_adapter(net, tmp_path / "ssf.safetensors")).tensors
    assert held and all(".ssf_" in name for name in held)


class Refusing(LoRA):
    """A method that finds out late that it cannot be placed."""

    def inject(self, network):
        super().inject(network)
        raise ValueError("cannot be placed after all")


def test_refused_method_leaves_nothing_of_the_ones_before_it():
    net = vit()
    modules, images = list(net.modules()), torch.rand(1, 1, 32, 32, 32)
    with pytest.raises(ValueError, match="after all"):
        adapt(net, [APLA(columns=2), Refusing(rank=2)])
    assert [type(module) for module in net.modules()] == [type(module) for module in modules]
    adapt(net, APLA(columns=2))(images)


def test_second_adapt_is_refused():
    with pytest.raises(ValueError, match="ViT is adapted already"):
        adapt(adapt(vit(), APLA()), LoRA())


@pytest.mark.parametrize("call", [merge, summary])
def test_plain_network_is_refused(call):
    with pytest.raises(ValueError, match="ViT is not adapted; call adapt"):
        call(vit())


def test_frozen_batch_norm_keeps_its_statistics_and_a_trained_one_does_not():
    net = adapt(batch_norm_unetr(), APLA(), also_train=["decoder2.*"]).train()
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(2, 1, 32, 32)).mean().backward()
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("decoder2.") and "running" in name or "num_batches" in name for name in moved)


def test_merge_lets_batch_norm_train_again():
    net = merge(adapt(batch_norm_unetr(), APLA())).train()
    before = net.encoder1.layer.norm1.running_mean.clone()
    net(torch.randn(2, 1, 32, 32))
    assert not torch.equal(net.encoder1.layer.norm1.running_mean, before)


def test_merged_network_can_be_adapted_again():
    net = adapt(vit(), APLA(columns=2))
    with torch.no_grad():
        net.blocks[0].attn.out_proj.rows.add_(1)
    again = adapt(merge(net), LoRA(rank=2))
    images = torch.rand(1, 1, 32, 32, 32)
    torch.testing.assert_close(again(images)[0], net(images)[0])


def test_merged_network_forgets_the_hooks():
    plain = merge(adapt(vit(), APLA()))
    plain.load_state_dict(plain.state_dict())
    assert not hasattr(plain, "_monai_essa_adaptation")


def test_disable_restores_after_an_error():
    net = adapt(vit(), FullTuning())
    with torch.no_grad():
        net.norm.weight.fill_(3)
    with pytest.raises(RuntimeError, match="inside"), disable_adapter(net):
        assert net.norm.weight[0] == 1
        raise RuntimeError("inside")
    assert net.norm.weight[0] == 3


def test_apla_of_a_vit_b_has_the_sizes_of_the_paper():
    with torch.device("meta"):
        net = ViT(1, 96, 16)
    # arXiv 2503.11335, ViT-B: 7.09 M in W_O; 8 columns of 12 blocks are 73,824.
    with torch.device("meta"):
        assert sum(net.get_parameter(name).numel() for name in APLA().claims(net)) == 7_087_104
    assert 12 * 8 * (768 + 1) == 73_824


def test_a_checkpoint_of_the_run_is_no_new_base():
    net = adapt(vit(), APLA())
    images = torch.rand(1, 1, 32, 32, 32)
    base = net(images)[0]
    with torch.no_grad():
        net.blocks[0].attn.out_proj.weight.add_(1)
    net.load_state_dict(copy.deepcopy(net.state_dict()))
    net.load_state_dict({"blocks.0.attn.out_proj.weight": net.blocks[0].attn.out_proj.weight + 1}, strict=False)
    with disable_adapter(net):
        assert torch.equal(net(images)[0], base)
