# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""LoRA against the peft package."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from monai.networks.blocks.transformerblock import TransformerBlock
from monai.networks.nets import SegResNetDS, SwinUNETR, UNet, ViT

from monai_essa import adapt, disable_adapter, load_adapter, merge, save_adapter
from monai_essa.anatomy.blocks import Rows
from monai_essa.anatomy.parts import encoder_layers
from monai_essa.methods.lora import LoRA, LoRAConv, LoRALinear
from monai_essa.methods.selective import BitFit

peft = pytest.importorskip("peft", reason="the oracle is the peft package: pip install monai_essa[peft]")


class Net(ViT):
    """One transformer block with a fused qkv (ours), or separate projections (peft cannot take rows of a qkv)."""

    def __init__(self, fused: bool) -> None:
        super().__init__(1, 8, 8, 24, 48, 1, 4, spatial_dims=2)
        self.blocks[0] = TransformerBlock(24, 48, 4, qkv_bias=True, use_combined_linear=fused)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](x)


def fused_and_separate() -> tuple[Net, Net]:
    fused, separate = Net(True), Net(False)
    state = fused.state_dict()
    for kind in ("weight", "bias"):
        for name, part in zip("qkv", state.pop(f"blocks.0.attn.qkv.{kind}").chunk(3), strict=True):
            state[f"blocks.0.attn.to_{name}.{kind}"] = part
    separate.load_state_dict(state)
    return fused, separate


def test_fused_query_and_value_equal_peft_on_separate_projections():
    ours, theirs = fused_and_separate()
    adapt(ours, LoRA(rank=3, alpha=6, targets=("q", "v")))
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["to_q", "to_v"])
    theirs = peft.inject_adapter_in_model(config, theirs)
    updates = ours.blocks[0].attn.qkv
    for name in "qv":
        layer = theirs.get_submodule(f"blocks.0.attn.to_{name}")
        for side, matrix in (("A", updates.lora_A[name]), ("B", updates.lora_B[name])):
            with torch.no_grad():
                matrix.copy_(torch.randn_like(matrix))
                getattr(layer, f"lora_{side}")["default"].weight.copy_(matrix)

    x = torch.randn(2, 5, 24)
    ours_out, theirs_out = ours(x), theirs(x)
    torch.testing.assert_close(ours_out, theirs_out, rtol=1e-6, atol=1e-6)
    ours_out.square().mean().backward()
    theirs_out.square().mean().backward()
    for name in "qv":
        layer = theirs.get_submodule(f"blocks.0.attn.to_{name}")
        torch.testing.assert_close(updates.lora_A[name].grad, layer.lora_A["default"].weight.grad, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(updates.lora_B[name].grad, layer.lora_B["default"].weight.grad, rtol=1e-6, atol=1e-6)


def test_output_projection_and_mlp_equal_peft():
    ours, _ = fused_and_separate()
    theirs = copy.deepcopy(ours)
    adapt(ours, LoRA(rank=2, alpha=1, targets=("o", "mlp")))
    config = peft.LoraConfig(r=2, lora_alpha=1, target_modules=["attn.out_proj", "mlp.linear1", "mlp.linear2"])
    theirs = peft.inject_adapter_in_model(config, theirs)
    for path in ("blocks.0.attn.out_proj", "blocks.0.mlp.linear1", "blocks.0.mlp.linear2"):
        mine, other = ours.get_submodule(path), theirs.get_submodule(path)
        with torch.no_grad():
            for matrix in (mine.lora_A["all"], mine.lora_B["all"]):
                matrix.copy_(torch.randn_like(matrix))
            other.lora_A["default"].weight.copy_(mine.lora_A["all"])
            other.lora_B["default"].weight.copy_(mine.lora_B["all"])
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_a_starts_as_in_peft_and_b_at_zero():
    torch.manual_seed(3)
    ours = LoRALinear(nn.Linear(24, 24), {"all": Rows("x", 0, 24)}, rank=4, alpha=8)
    torch.manual_seed(3)
    theirs = peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=["0"]), nn.Sequential(nn.Linear(24, 24)))
    limits = [float(a.detach().abs().max()) for a in (ours.lora_A["all"], theirs[0].lora_A["default"].weight)]
    assert limits[0] == pytest.approx(limits[1], rel=0.1)
    assert not ours.lora_B["all"].any()


def test_only_the_chosen_rows_of_a_fused_qkv_change():
    net = adapt(ViT(1, 32, 16, 24, 48, 2, 4), LoRA(rank=2, targets=["k"]))
    before = net.blocks[0].attn.qkv.weight.clone()
    with torch.no_grad():
        net.blocks[0].attn.qkv.lora_B["k"].fill_(1)
    changed = (merge(net).blocks[0].attn.qkv.weight != before).any(dim=1).nonzero().flatten()
    assert changed.tolist() == list(range(24, 48))


def test_dropout_acts_in_training_only():
    layer = LoRALinear(nn.Linear(8, 8), {"all": Rows("x", 0, 8)}, rank=2, alpha=2, dropout=0.5)
    nn.init.ones_(layer.lora_B["all"])
    x = torch.randn(4, 8)
    assert torch.equal(layer.eval()(x), layer(x))
    assert not torch.equal(layer.train()(x), layer(x))


def test_a_layer_placed_in_a_network_in_eval_mode_drops_nothing():
    linear = nn.Linear(8, 8).eval()
    layer, x = LoRALinear(linear, {"all": Rows("x", 0, 8)}, rank=2, alpha=2, dropout=0.5), torch.rand(4, 8)
    nn.init.ones_(layer.lora_B["all"])
    assert torch.equal(layer(x), layer(x))


def test_a_merged_layer_shares_no_tensor_with_the_base():
    linear = nn.Linear(8, 8)
    layer = LoRALinear(linear, {"all": Rows("x", 0, 8)}, rank=2, alpha=2)
    merged, bias = layer.merged(), linear.bias.detach().clone()
    assert torch.equal(merged.bias, bias) and torch.equal(merged.weight, linear.weight)
    with torch.no_grad():
        merged.bias.add_(1)
        merged.weight.add_(1)
    assert torch.equal(linear.bias, bias) and not torch.equal(linear.weight, merged.weight)
    assert layer.plain().bias is linear.bias


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank: expected a whole number from 1 to inf, got 0"),
        ({"rank": 2.5}, "rank: expected a whole number from 1 to inf, got 2.5"),
        ({"rank": True}, "rank: expected a whole number from 1 to inf, got True"),
        ({"rank": "8"}, "rank: expected a whole number from 1 to inf, got '8'"),
        ({"alpha": 0}, "alpha: expected a number above 0, got 0"),
        ({"alpha": -1}, "alpha: expected a number from 0 to inf, got -1"),
        ({"alpha": float("inf")}, "alpha: expected a number from 0 to inf, got inf"),
        ({"dropout": 1.0}, "dropout: expected a share below 1, got 1.0"),
        ({"dropout": float("nan")}, "dropout: expected a number from 0 to 1, got nan"),
        ({"targets": ("q", "w")}, r"targets\[1\]: expected one of 'q', 'k', 'v', 'o', 'mlp', 'conv'; got 'w'"),
        ({"targets": [["q"]]}, r"targets\[0\]: expected one of .*; got \['q'\]"),
        ({"targets": "qv"}, "targets: expected a list of 1 to .*, got 'qv'"),
        ({"targets": {"q": 1}}, "targets: expected a list of 1 to .*"),
        ({"targets": ()}, "targets: expected a list of 1 to .*"),
        ({"freeze_a": "yes"}, "freeze_a: expected true or false, got 'yes'"),
    ],
)
def test_bad_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^LoRA, {message}$"):
        LoRA(**arguments)


def test_targets_of_yaml_are_as_good_as_those_of_python(tmp_path):
    from_yaml = LoRA(rank=4.0, targets=["q", "v", "q"])
    assert from_yaml == LoRA(rank=4) and hash(from_yaml) == hash(LoRA(rank=4)) and from_yaml.targets == ("q", "v")
    assert repr(from_yaml) == repr(LoRA(rank=4)) and type(from_yaml.rank) is int
    net = adapt(ViT(1, 32, 16, 24, 48, 2, 4), from_yaml)
    path = save_adapter(net, tmp_path / "adapter.safetensors")
    load_adapter(adapt(merge(net), LoRA(rank=4)), path)


def test_rank_above_the_width_is_refused():
    with pytest.raises(ValueError, match="rank 25 is more than the 24 features of 'blocks.0.attn.qkv'"):
        adapt(ViT(1, 32, 16, 24, 48, 2, 4), LoRA(rank=25))


def test_conv_adapts_every_convolution_of_the_encoder_and_no_other():
    net = SegResNetDS(3, init_filters=8, blocks_down=(1, 1), dsdepth=1)
    convolutions = encoder_layers(net, (nn.Conv3d,))
    adapt(net, LoRA(rank=2, targets=["conv"]))
    adapted = [path for path, module in net.named_modules() if isinstance(module, LoRAConv)]
    assert adapted == list(convolutions)
    learning = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert learning == {f"{path}.lora_{side}" for path in adapted for side in "AB"}


def test_grouped_convolutions_are_left_alone():
    net = UNet(2, 1, 2, channels=(4, 8), strides=(2,))
    net.model[1].submodule.conv = nn.Conv2d(4, 8, 3, padding=1, groups=2)
    assert LoRA(rank=2, targets=["conv"]).claims(net) == {"model.0.conv.weight"}


def test_linear_layers_and_convolutions_are_adapted_together():
    net = SwinUNETR(1, 2, feature_size=12, spatial_dims=2)
    claimed = LoRA(rank=2, targets=("q", "conv")).claims(net)
    assert {"swinViT.patch_embed.proj.weight", "swinViT.layers1.0.blocks.0.attn.qkv.weight"} <= claimed


def test_rank_above_the_narrow_side_of_a_convolution_is_refused_before_anything_changes():
    net = UNet(2, 1, 2, channels=(4, 16), strides=(2,))  # 4 x (1 x 3 x 3), then 16 x (4 x 3 x 3)
    with pytest.raises(ValueError, match="rank 5 is more than the 4 features of 'model.0.conv'"):
        adapt(net, LoRA(rank=5, targets=["conv"]))
    assert not any(isinstance(module, LoRAConv) for module in net.modules())


@pytest.mark.parametrize("order", ["lora first", "biases first"])
def test_bias_of_an_adapted_layer_may_train_by_another_method(order, tmp_path):
    torch.manual_seed(0)
    net = ViT(1, 32, 16, 24, 48, 2, 4, qkv_bias=True)
    fresh, images = copy.deepcopy(net), torch.rand(1, 1, 32, 32, 32)
    base = net(images)[0]
    methods = [LoRA(rank=2, targets=("q", "mlp")), BitFit()]
    adapt(net, methods if order == "lora first" else methods[::-1])
    layer = net.blocks[0].attn.qkv
    assert isinstance(layer, LoRALinear) and layer.bias.requires_grad and not layer.weight.requires_grad
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))

    expected = net(images)[0]
    assert not torch.allclose(expected, base, atol=1e-2)
    torch.testing.assert_close(merge(net)(images)[0], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(merge(net).blocks[0].attn.qkv.bias, layer.bias)
    with disable_adapter(net):
        assert torch.equal(net(images)[0], base)
    assert torch.equal(net(images)[0], expected)
    loaded = load_adapter(fresh, save_adapter(net, tmp_path / "both.safetensors"))
    assert torch.equal(loaded(images)[0], expected)
