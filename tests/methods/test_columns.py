# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Choosing columns of W_O, and the index file."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, SegResNet, SwinUNETR, ViT

from monai_essa import adapt
from monai_essa.methods import APLA, choose_columns, read_columns, write_columns
from tests.forked import run_ranks

STRATEGIES = ("random", "largest_norm", "largest_gradient")
IMAGES = (2, 1, 32, 32, 32)


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(1, 32, 16, 24, 48, 2, 4)


def batch_norm_unetr() -> UNETR:
    torch.manual_seed(0)
    return UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2, norm_name="batch", dropout_rate=0.1)


def loss_of(images: torch.Tensor):
    return lambda net: net(images)[0].square().mean()


@pytest.mark.parametrize("net", [vit(), SwinUNETR(1, 2, feature_size=12, spatial_dims=2)])
def test_random_is_what_apla_draws(net):
    chosen = choose_columns(net, 5, seed=3)
    adapt(net, APLA(columns=5, seed=3))
    drawn = {path: net.get_submodule(path) for path in chosen}
    assert chosen == {
        path: (block.attn.out_proj if "swin" not in path else block.attn.proj).columns.tolist()
        for path, block in drawn.items()
    }


def test_largest_norm_is_the_norm_of_a_row():
    net = vit()
    with torch.no_grad():
        net.blocks[0].attn.out_proj.weight[[20, 3, 7]] *= 100
        net.blocks[1].attn.out_proj.weight[:, [20, 3, 7]] *= 100  # input features: the norms of rows stay close
        net.blocks[1].attn.out_proj.weight[[1, 2, 4]] *= 50
    assert choose_columns(net, 3, "largest_norm") == {"blocks.0": [3, 7, 20], "blocks.1": [1, 2, 4]}


def test_largest_gradient_is_the_gradient_of_a_row():
    net, loss = vit(), loss_of(torch.rand(IMAGES))
    chosen = choose_columns(net, 4, "largest_gradient", loss=loss)
    loss(net).backward()
    for path, indices in chosen.items():
        norms = net.get_submodule(path).attn.out_proj.weight.grad.norm(dim=1)
        assert indices == norms.topk(4).indices.sort().values.tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_choice_is_given_to_apla(strategy):
    net = vit()
    chosen = choose_columns(net, 3, strategy, loss=loss_of(torch.rand(IMAGES)))
    adapt(net, APLA(columns=chosen))
    assert net.blocks[1].attn.out_proj.columns.tolist() == chosen["blocks.1"]
    assert chosen["blocks.1"] == sorted(set(chosen["blocks.1"]))


def test_of_equal_columns_the_first_are_taken():
    net = vit()
    for block in net.blocks:
        nn.init.ones_(block.attn.out_proj.weight)
    assert choose_columns(net, 3, "largest_norm")["blocks.0"] == [0, 1, 2]


def test_network_is_left_as_it_was():
    net, images = batch_norm_unetr().train(), torch.rand(2, 1, 32, 32)
    net.vit.norm.eval()
    net.decoder2.requires_grad_(False)
    net(images).mean().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    values = {name: None if gradient is None else gradient.clone() for name, gradient in gradients.items()}
    learning = [p.requires_grad for p in net.parameters()]
    modes, state = [module.training for module in net.modules()], copy.deepcopy(net.state_dict())

    def careless(network: nn.Module) -> torch.Tensor:
        network.train()
        network(images).mean().backward()
        return network(images).square().mean()

    choose_columns(net, 2, "largest_gradient", loss=careless)
    assert [p.requires_grad for p in net.parameters()] == learning
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    for name, parameter in net.named_parameters():
        assert parameter.grad is gradients[name]
        assert values[name] is None or torch.equal(parameter.grad, values[name])


def test_network_is_left_as_it_was_after_an_error():
    net = vit().train()
    with pytest.raises(RuntimeError, match="inside"):
        choose_columns(net, 2, "largest_gradient", loss=_fails)
    assert net.training and all(p.requires_grad for p in net.parameters())


def _fails(net: nn.Module) -> torch.Tensor:
    raise RuntimeError("inside")


def test_frozen_network_under_no_grad_has_gradients_too():
    net, loss = vit(), loss_of(torch.rand(IMAGES))
    expected = choose_columns(net, 4, "largest_gradient", loss=loss)
    with torch.no_grad():
        assert choose_columns(net.requires_grad_(False), 4, "largest_gradient", loss=loss) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": 3, "strategy": "largest"}, "one of random, largest_norm, largest_gradient, got 'largest'"),
        ({"r": 3, "strategy": "largest_gradient"}, "needs loss="),
        ({"r": 25}, "between 1 and 24, the narrowest W_O, got 25"),
        ({"r": 0}, "between 1 and 24"),
        ({"r": 0.5}, "must be an int"),
        ({"r": 3, "strategy": "largest_gradient", "loss": lambda net: net(torch.rand(IMAGES))[0]}, "finite scalar"),
        ({"r": 3, "strategy": "largest_gradient", "loss": lambda net: torch.zeros(())}, "finite scalar"),
        ({"r": 3, "strategy": "largest_gradient", "loss": lambda net: {"loss": 0}}, "finite scalar"),
        (
            {"r": 3, "strategy": "largest_gradient", "loss": lambda net: loss_of(torch.full(IMAGES, torch.nan))(net)},
            "nan",
        ),
        (
            {"r": 3, "strategy": "largest_gradient", "loss": lambda net: net(torch.rand(IMAGES))[1][0].sum()},
            "does not depend on W_O of block 'blocks.1'",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_columns(vit(), **arguments)


def test_network_without_transformer_blocks_is_refused():
    with pytest.raises(ValueError, match="SegResNet has no encoder block with an output projection"):
        choose_columns(SegResNet(2, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)), 2)


def test_index_file_gives_back_what_was_written(tmp_path):
    chosen = choose_columns(vit(), 3)
    assert read_columns(write_columns(chosen, tmp_path / "columns.json")) == chosen
    assert [path.name for path in tmp_path.iterdir()] == ["columns.json"]


def test_index_file_may_name_blocks_by_position(tmp_path):
    net = adapt(vit(), APLA(columns=read_columns(write_columns({"1": [4, 2]}, tmp_path / "columns.json"))))
    assert net.blocks[1].attn.out_proj.columns.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[[1, 2]]", "expected .*, got "),
        (b"{}", "expected"),
        (b'{"blocks.0": 3}', "block 'blocks.0' must have a list of indices from 0, such as .*, got 3"),
        (b'{"blocks.0": []}', "must have a list"),
        (b'{"blocks.0": [1, -2]}', "must have a list"),
        (b'{"blocks.0": [1.5]}', "must have a list"),
        (b'{"blocks.0": [true]}', "must have a list"),
    ],
)
def test_bad_index_file_is_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / "columns.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^[^\n]*columns.json[^\n]*{message}[^\n]*$"):
        read_columns(path)


def _choose_in_one_process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(1)
    try:
        net = vit()
        torch.manual_seed(rank)
        images = torch.rand(IMAGES)
        chosen = choose_columns(net, 6, "largest_gradient", loss=loss_of(images))
        write_columns(chosen, f"{folder}/{rank}.json")
        torch.save(images, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_choose_the_same_columns_from_different_batches(tmp_path):
    run_ranks(_choose_in_one_process, str(tmp_path))
    first, second = (read_columns(tmp_path / f"{rank}.json") for rank in (0, 1))
    batches = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = [choose_columns(vit(), 6, "largest_gradient", loss=loss_of(batch)) for batch in batches]
    assert first == second and alone[0] != alone[1]
    assert first == choose_columns(vit(), 6, "largest_gradient", loss=loss_of(torch.cat(batches)))
