# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""VPT against hand-written loops over the blocks of the base."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SwinUNETR, ViT, ViTAutoEnc

from monai_essa import adapt, disable_adapter
from monai_essa.anatomy import classification_network, encoder_view
from monai_essa.methods import APLA, VPT, LoRA

PROMPTS = 2
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: ViT(1, 32, 8, 24, 48, 3, 4, spatial_dims=2),
    "vit-cls": lambda: ViT(1, 32, 8, 24, 48, 3, 4, spatial_dims=2, classification=True),
    "vitautoenc": lambda: ViTAutoEnc(1, 32, 16, 1, 4, 24, 48, 3, 4, spatial_dims=2),
    "unetr": lambda: UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2),
    "mae": lambda: MaskedAutoEncoderViT(1, 32, 8, 24, 48, 3, 4, 0.5, 24, 48, 1, 4, spatial_dims=2),
}
IMAGES = (2, 1, 32, 32)


class Net(ViT):
    def __init__(self, **attention: object) -> None:
        super().__init__(1, 32, 8, 24, 48, 1, 4, spatial_dims=2)
        self.blocks[0].attn = SABlock(24, 4, **attention)  # type: ignore[arg-type]


def pair(kind: str, deep: bool) -> tuple[nn.Module, nn.Module]:
    base = NETWORKS[kind]().eval()
    return base, adapt(copy.deepcopy(base), VPT(PROMPTS, deep))


def prompts_of(network: nn.Module) -> list[torch.Tensor]:
    return [p.expand(IMAGES[0], -1, -1) for name, p in network.named_parameters() if name.endswith(".prompts")]


def literal(
    blocks: list[nn.Module], tokens: torch.Tensor, prompts: list[torch.Tensor], at: int = 0
) -> list[torch.Tensor]:
    """The outputs of all blocks; prompts stand before token ``at`` (the paper: after the class token)."""
    outputs, deep = [], len(prompts) == len(blocks)
    x = tokens if deep else torch.cat([tokens[:, :at], prompts[0], tokens[:, at:]], dim=1)
    for i, block in enumerate(blocks):
        x = block(torch.cat([x[:, :at], prompts[i], x[:, at:]], dim=1) if deep else x)
        without = torch.cat([x[:, :at], x[:, at + PROMPTS :]], dim=1)
        x = without if deep else x
        outputs.append(without)
    return outputs


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("kind", ["vit", "vitautoenc", "unetr"])
def test_tokens_and_hidden_states_equal_a_loop_over_the_blocks(kind, deep):
    base, net = pair(kind, deep)
    base_trunk, trunk = (network.vit if kind == "unetr" else network for network in (base, net))
    images = torch.rand(IMAGES)
    expected = literal(list(base_trunk.blocks), base_trunk.patch_embedding(images), prompts_of(net))
    final, hidden_states = trunk(images)
    for state, wanted in zip(hidden_states, expected, strict=True):
        torch.testing.assert_close(state, wanted, rtol=1e-5, atol=1e-5)
    if kind != "vitautoenc":
        torch.testing.assert_close(final, base_trunk.norm(expected[-1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("deep", [True, False])
def test_class_token_sees_prompts_that_stand_behind_it_in_the_paper(deep):
    base, net = pair("vit-cls", deep)
    images = torch.rand(IMAGES)
    tokens = torch.cat([base.cls_token.expand(IMAGES[0], -1, -1), base.patch_embedding(images)], dim=1)
    expected = base.norm(literal(list(base.blocks), tokens, prompts_of(net), at=1)[-1])[:, 0]
    torch.testing.assert_close(net(images)[0], base.classification_head(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("kind", ["vit", "vit-cls", "unetr", "mae"])
def test_encoder_view_encodes_a_subset_of_the_tokens(kind, deep):
    base, net = pair(kind, deep)
    trunk = base.vit if kind == "unetr" else base
    tokens = encoder_view(net).embed(torch.rand(IMAGES))[:, 1:]
    classes = [trunk.cls_token.expand(IMAGES[0], -1, -1)] if hasattr(trunk, "cls_token") else []
    blocks, norm = (list(trunk.blocks[:-1]), trunk.blocks[-1]) if kind == "mae" else (list(trunk.blocks), trunk.norm)
    expected = norm(literal(blocks, torch.cat([*classes, tokens], dim=1), prompts_of(net))[-1])
    torch.testing.assert_close(encoder_view(net).encode(tokens), expected[:, len(classes) :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("deep", [True, False])
def test_disabled_network_gives_the_hidden_states_of_its_base(deep):
    base, net = pair("vit", deep)
    images = torch.rand(IMAGES)
    with disable_adapter(net):
        for state, wanted in zip(net(images)[1], base(images)[1], strict=True):
            assert torch.equal(state, wanted)
    assert net(images)[1][0].shape == base(images)[1][0].shape


@pytest.mark.parametrize("deep", [True, False])
def test_two_forwards_before_one_backward_add_their_gradients(deep):
    _, net = pair("vit", deep)
    net.double()
    images = [torch.rand(IMAGES, dtype=torch.float64), torch.rand(1, 1, 32, 32, dtype=torch.float64)]
    learned = [p for p in net.parameters() if p.requires_grad]
    apart = [torch.autograd.grad(net(each)[0].square().sum(), learned) for each in images]
    together = torch.autograd.grad(sum(net(each)[0].square().sum() for each in images), learned)
    for first, second, both in zip(*apart, together, strict=True):
        torch.testing.assert_close(both, first + second)


@pytest.mark.parametrize(
    ("network", "voxels"),
    [
        (lambda: ViT(1, 32, 8, 24, 48, 3, 4, spatial_dims=2), 8 * 8),
        (lambda: ViT(2, 32, (8, 16, 4), 24, 48, 3, 4), 8 * 16 * 4),
        (lambda: ViT(2, 32, (8, 16, 4), 24, 48, 3, 4, proj_type="perceptron"), 8 * 16 * 4),
        (lambda: UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2), 16 * 16),
        (lambda: classification_network(ViT(1, 32, 4, 24, 48, 3, 4, spatial_dims=2), 2), 4 * 4),
    ],
)
@pytest.mark.parametrize("deep", [True, False])
def test_prompts_start_within_the_bound_of_the_patches(network, voxels, deep):
    net = adapt(network(), VPT(tokens=30, deep=deep))
    prompts = [p.detach() for name, p in net.named_parameters() if name.endswith(".prompts")]
    bound = (6 / (3 * voxels + 24)) ** 0.5  # the official code, for RGB images
    assert len(prompts) >= 3 if deep else len(prompts) == 1
    for prompt in prompts:
        assert 0.95 * bound < prompt.abs().max() <= bound
        assert float(prompt.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_prompts_alone_get_gradients():
    net = adapt(ViT(1, 32, 8, 24, 48, 3, 4, spatial_dims=2), VPT(tokens=10))
    prompts = [p for name, p in net.named_parameters() if name.endswith(".prompts")]
    net(torch.rand(IMAGES))[0].square().mean().backward()
    assert [p for p in net.parameters() if p.grad is not None] == prompts


def test_shallow_prompts_of_a_single_block_enter_and_leave_it():
    net = adapt(ViT(1, 32, 8, 24, 48, 1, 4, spatial_dims=2), VPT(PROMPTS, deep=False))
    tokens, hidden_states = net(torch.rand(IMAGES))
    assert tokens.shape == hidden_states[0].shape == (2, 16, 24)


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("other", [APLA(columns=2), LoRA(rank=2, targets=("q", "o", "mlp"))])
def test_order_beside_another_method_does_not_matter(other, deep):
    base, images, outputs = NETWORKS["unetr"]().eval(), torch.rand(IMAGES), []
    for methods in ([VPT(PROMPTS, deep), other], [other, VPT(PROMPTS, deep)]):
        net = adapt(copy.deepcopy(base), methods)
        generator = torch.Generator().manual_seed(0)
        for _, parameter in sorted(net.named_parameters(), key=lambda named: named[0]):
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
        outputs.append(net(images))
        with disable_adapter(net):
            assert torch.equal(net(images), base(images))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("deep", [True, False])
def test_adapted_network_exports_as_its_refusal_to_merge_promises(deep):
    _, net = pair("vit", deep)
    images = torch.rand(IMAGES)
    with torch.no_grad():
        tokens, hidden_states = net(images)
        for copied in (torch.export.export(net, (images,)).module(), torch.jit.trace(net, images, strict=False)):
            torch.testing.assert_close(copied(images)[0], tokens)
            torch.testing.assert_close(copied(images)[1][0], hidden_states[0])


@pytest.mark.parametrize("deep", [True, False])
def test_as_many_prompts_as_tokens_are_refused_at_the_first_forward(deep):
    net = adapt(NETWORKS["vit"](), VPT(16, deep))
    with pytest.raises(
        ValueError, match=r"^expected fewer prompts .* got VPT\(tokens=16\) for a sequence of 16; use .*$"
    ):
        net(torch.rand(IMAGES))


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2), "Swin attends within windows"),
        (lambda: Net(causal=True, sequence_length=16), "causally"),
        (lambda: Net(rel_pos_embedding="decomposed", input_size=(4, 4)), "relative positions"),
    ],
)
def test_blocks_without_a_place_for_prompts_are_refused(network, why):
    with pytest.raises(ValueError, match=f"^VPT does not fit '.*block.*' of .*{why}.*; use AdaptFormer, LoRA or APLA$"):
        adapt(network(), VPT())


def test_attention_mask_and_zero_prompts_are_refused():
    net = adapt(Net(), VPT(PROMPTS))
    with pytest.raises(ValueError, match=r"expected no attention mask, got \(1, 16\)"):
        net.blocks[0](torch.zeros(1, 16, 24), attn_mask=torch.ones(1, 16))
    for tokens in (0, 1.5, True, "10"):
        with pytest.raises(ValueError, match=f"^VPT, tokens: expected a whole number from 1 to inf, got {tokens!r}$"):
            VPT(tokens=tokens)
