# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A layer that takes the place of another holds the same tensors, names and hooks, and gives the other back."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn as nn
from monai.networks.blocks import MLPBlock
from monai.networks.nets import UNETR, SegResNet, SwinUNETR

from monai_essa import adapt, disable_adapter, merge
from monai_essa.methods import APLA, SSF, VPT, AdaptFormer, ComponentTuning, LoRA, NotMergeable
from monai_essa.methods.method import adopt, original_of


class Shifted(MLPBlock):
    def __init__(self, mlp: MLPBlock) -> None:
        adopt(self, mlp)
        self.offset = 1.0
        self.shift = nn.Parameter(torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.shift + self.offset


def test_tensors_and_children_are_shared_and_the_original_gains_nothing():
    mlp = MLPBlock(8, 16)
    names = list(mlp.state_dict())
    layer = Shifted(mlp)
    assert layer.linear1 is mlp.linear1 and list(layer.state_dict()) == ["shift", *names]
    assert list(mlp.state_dict()) == names and not hasattr(mlp, "shift")


def test_original_follows_what_the_layer_holds_now():
    mlp, x = MLPBlock(8, 16), torch.randn(2, 8)
    layer = Shifted(mlp)
    layer.linear1 = nn.Linear(8, 16)
    original = original_of(layer, MLPBlock, ("offset", "shift"))
    assert type(original) is MLPBlock and original.linear1 is layer.linear1
    assert vars(original).keys() == vars(mlp).keys() and not hasattr(original, "shift")
    torch.testing.assert_close(original(x) + 1, layer(x))


def test_hooks_stay_and_their_handles_still_remove_them():
    mlp, calls = MLPBlock(8, 16), []
    handle = mlp.register_forward_hook(lambda *_: calls.append(1))
    layer = Shifted(mlp)
    layer(torch.zeros(1, 8))
    original_of(layer, MLPBlock, ("offset", "shift"))(torch.zeros(1, 8))
    assert len(calls) == 2
    handle.remove()
    layer(torch.zeros(1, 8))
    assert len(calls) == 2


NETWORKS = {
    "unetr": lambda: UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2),
    "swin": lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2),
    "segresnet": lambda: SegResNet(2, 8, blocks_down=(1, 1), blocks_up=(1,)),
}
HOOKED = [
    *((network, method) for network in ("unetr", "swin") for method in (APLA(columns=3), AdaptFormer(4), SSF())),
    *((network, LoRA(2, targets=("q", "v", "o", "mlp", "conv"))) for network in ("unetr", "swin")),
    ("unetr", VPT(2)),
    ("unetr", VPT(2, deep=False)),
    ("unetr", ComponentTuning("k")),
    ("segresnet", LoRA(2, targets=("conv",))),
    ("segresnet", SSF()),
]


def count_calls(network: nn.Module, calls: Counter[str]) -> list[torch.utils.hooks.RemovableHandle]:
    """Put hooks of each kind on every module; of a convolution MONAI changes the output in place, so none backward."""
    handles = []
    for path, module in network.named_modules():
        if path.endswith("rearrange"):
            continue  # a layer of einops, which forgets its hooks in a copy

        def count(*_: object, path: str = path) -> None:
            calls[path] += 1

        def count_named(module: nn.Module, inputs: tuple, named: dict, *_: object, path: str = path) -> None:
            calls[path] += 1

        handles += [
            module.register_forward_pre_hook(count),
            module.register_forward_hook(count),
            module.register_forward_pre_hook(count_named, with_kwargs=True),
            module.register_forward_hook(count_named, with_kwargs=True, always_call=True),
        ]
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            handles += [module.register_full_backward_pre_hook(count), module.register_full_backward_hook(count)]
    return handles


def calls_of(network: nn.Module, calls: Counter[str]) -> Counter[str]:
    calls.clear()
    output = network(torch.rand(1, 1, *([64, 64] if isinstance(network, SwinUNETR) else [32, 32]), requires_grad=True))
    output.sum().backward()
    return Counter(calls)


@pytest.mark.parametrize(("network", "method"), HOOKED, ids=str)
def test_hooks_of_the_user_stay_through_adapt_disable_and_merge(network, method):
    net, calls = NETWORKS[network](), Counter()
    handles = count_calls(net, calls)
    expected = calls_of(net, calls)
    assert set(expected.values()) >= ({4} if network == "segresnet" else {4, 6})
    adapt(net, method)
    assert {path: count for path, count in calls_of(net, calls).items() if path in expected} == expected
    with disable_adapter(net):
        assert calls_of(net, calls) == expected
    try:
        assert calls_of(merge(net), calls) == expected
    except NotMergeable:
        assert isinstance(method, (AdaptFormer, VPT))
    for handle in handles:
        handle.remove()
    assert not calls_of(net, calls)
    with disable_adapter(net):
        assert not calls_of(net, calls)


@pytest.mark.parametrize("method", [APLA(columns=3), LoRA(2, targets=("q", "o", "mlp"))], ids=str)
def test_a_hook_of_the_user_changes_the_output_of_the_merged_layer_too(method):
    net, images = NETWORKS["unetr"]().eval(), torch.rand(1, 1, 32, 32)
    net.vit.blocks[1].attn.out_proj.register_forward_hook(lambda _m, _i, output: output + 1)
    expected = net(images)
    torch.testing.assert_close(adapt(net, method)(images), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merge(net)(images), expected, rtol=1e-5, atol=1e-5)


def test_a_merged_layer_holds_nothing_of_this_package():
    net = adapt(NETWORKS["unetr"](), [APLA(columns=3), LoRA(2, targets=("q", "mlp", "conv"))])
    for path, module in merge(net).named_modules():
        plain = type(module).__module__.startswith(("torch.", "monai.", "einops."))
        assert plain and not module._load_state_dict_pre_hooks and not module._load_state_dict_post_hooks, path
