# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a layer computes with beside its tensors is read off the modules, alike wherever the encoder stands."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SegResNet, SegResNetDS, SwinUNETR, UNet, ViT, ViTAutoEnc

from monai_essa import adapt, lean
from monai_essa.adapters.identity import encoder_facts, position_grid
from monai_essa.anatomy import classification_network
from monai_essa.methods import APLA, SSF, VPT, AdaptFormer, FullTuning, LoRA, PeftLibrary

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def vit(**changes) -> ViT:
    arguments = {"num_layers": 12, "hidden_size": 24, "mlp_dim": 48, "num_heads": 4, "spatial_dims": 2} | changes
    return ViT(1, 32, 16, **arguments)


def unetr(**changes) -> UNETR:
    return UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2, **changes)


def swin(**changes) -> SwinUNETR:
    arguments = {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "spatial_dims": 2} | changes
    return SwinUNETR(1, 2, **arguments)


def segresnet(**changes) -> SegResNet:
    return SegResNet(**({"spatial_dims": 2, "init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)} | changes))


def unet(**changes) -> UNet:
    arguments = {"channels": (4, 8, 8), "strides": (2, 2), "num_res_units": 1} | changes
    return UNet(2, 1, 2, **arguments)


# A network, settings on one side and on the other: tensors of the same names and shapes.
SAME_TENSORS = {
    "heads": (vit, {}, {"num_heads": 8}),
    "normalised maps": (swin, {}, {"normalize": False}),
    "merging of patches": (swin, {}, {"downsample": "mergingv2"}),
    "groups of a norm": (segresnet, {}, {"norm": ("GROUP", {"num_groups": 4})}),
    "epsilon of a norm": (segresnet, {}, {"norm": ("GROUP", {"num_groups": 8, "eps": 1e-3})}),
    "class of a norm": (segresnet, {"norm": ("INSTANCE", {"affine": True})}, {"norm": ("GROUP", {"num_groups": 8})}),
    "activation": (segresnet, {}, {"act": "ELU"}),
    "slope": (unet, {"act": ("LEAKYRELU", {"negative_slope": 0.1})}, {"act": ("LEAKYRELU", {"negative_slope": 0.3})}),
    "order of norm and activation": (unet, {}, {"adn_ordering": "AN"}),
    "stride": (unet, {"num_res_units": 0}, {"num_res_units": 0, "strides": (1, 2)}),
}


@pytest.mark.parametrize("case", SAME_TENSORS)
def test_settings_that_change_the_function_are_told(case):
    make, here, there = SAME_TENSORS[case]
    one, other = make(**here), make(**there)
    assert {n: t.shape for n, t in one.state_dict().items()} == {n: t.shape for n, t in other.state_dict().items()}
    assert encoder_facts(one) != encoder_facts(other)


@pytest.mark.parametrize(
    ("make", "changes"),
    [(vit, {"dropout_rate": 0.1}), (swin, {"use_checkpoint": True}), (segresnet, {"dropout_prob": 0.2})],
)
def test_what_matters_in_training_alone_is_not_told(make, changes):
    assert encoder_facts(make()) == encoder_facts(make(**changes))


def test_epsilon_and_activation_of_a_vit_are_told():
    stock, other = vit(), vit()
    other.blocks[3].norm1.eps = 1e-6
    other.blocks[5].mlp.fn = nn.ReLU()
    differ = {name for name, fact in encoder_facts(stock).items() if encoder_facts(other)[name] != fact}
    assert differ == {"blocks.3.norm1", "blocks.5.mlp.fn"}


@pytest.mark.parametrize(
    ("network", "holder"),
    [
        (vit, unetr),
        (vit, lambda: classification_network(vit(), 3)),
        (vit, lambda: classification_network(unetr(), 3, "attention")),
        (segresnet, lambda: classification_network(segresnet(), 3)),
        (unet, lambda: classification_network(unet(), 3)),
        (
            lambda: SegResNetDS(2, 8, blocks_down=(1, 1), dsdepth=1),
            lambda: classification_network(SegResNetDS(2, 8, blocks_down=(1, 1), dsdepth=1), 3),
        ),
    ],
)
def test_an_encoder_says_the_same_wherever_it_stands(network, holder):
    assert encoder_facts(network()) == encoder_facts(holder())


def test_a_swin_says_the_same_without_its_decoder():
    whole = {name: fact for name, fact in encoder_facts(swin()).items() if not name.startswith("network ")}
    assert whole == encoder_facts(classification_network(swin(), 3))


PEFT = PeftLibrary({"peft_type": "LORA", "r": 2, "target_modules": ["linear1"]})


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (vit, [APLA(columns=3), LoRA(rank=2)]),
        (vit, [AdaptFormer(bottleneck=2), LoRA(rank=2, targets=("mlp",))]),
        (unetr, VPT(tokens=2)),
        (unetr, VPT(tokens=2, deep=False)),
        (vit, SSF()),
        (vit, PEFT),
        (swin, [APLA(columns=3), LoRA(rank=2, targets=("q", "mlp"))]),
        (segresnet, SSF()),
        (unet, LoRA(rank=2, targets=("conv",))),
        (unet, FullTuning()),
    ],
)
def test_an_adapted_lean_or_copied_network_says_what_its_base_said(make, method):
    net = make()
    expected = encoder_facts(net)
    assert encoder_facts(adapt(net, method)) == expected
    assert encoder_facts(lean(net, frozen_dtype=torch.bfloat16)) == expected
    assert encoder_facts(copy.deepcopy(net).train()) == expected


def test_batch_norms_of_several_processes_are_batch_norms():
    net = segresnet(norm="batch")
    assert encoder_facts(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))) == encoder_facts(net)


def test_what_files_hold_already_stays_as_it_is_written():
    facts = encoder_facts(vit(num_layers=1)) | encoder_facts(swin())
    assert facts["blocks.0.attn"] == "SABlock num_heads=4 dim_head=6 causal=False"
    assert facts["blocks.0.mlp.fn"] == "GELU approximate=none"
    assert facts["layers1.0.blocks.0"] == "SwinTransformerBlock num_heads=1 window_size=7,7 shift_size=0,0"
    assert facts["layers1.0.downsample.norm"] == "LayerNorm eps=1e-05"
    assert facts["network SwinUNETR"] == "normalize=True"
    assert encoder_facts(unet())["model.0.conv.unit0.adn"] == "order=N,A"


def test_layers_that_no_forward_pass_reaches_and_the_decoder_are_left_out():
    names = set(encoder_facts(unetr()))
    assert "blocks.11.attn" in names and not any("cross_attn" in name or "decoder" in name for name in names)


def test_the_grid_of_positions_is_known_where_the_network_keeps_it():
    assert position_grid(UNETR(1, 2, (32, 64), 4, 24, 48, 4, spatial_dims=2), 8) == [2, 4]
    assert position_grid(ViTAutoEnc(1, (32, 64), 16, 1, 4, 24, 48, 1, 4, spatial_dims=2), 8) == [2, 4]
    assert position_grid(MaskedAutoEncoderViT(1, 32, 8, 24, 48, 1, 4, 0.5, 24, 48, 1, 4, spatial_dims=2), 16) == [4, 4]
    assert position_grid(vit(), 4) == [4]
