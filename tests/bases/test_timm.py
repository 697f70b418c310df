# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""timm's VisionTransformer by its shipped description: the 2-D setting of the ESSA paper, on DINOv2-shaped networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_essa import adapt, disable_adapter, lean, load_adapter, load_weights, merge, save_adapter
from monai_essa.anatomy import classification_network, encoder_view, timm_vit
from monai_essa.methods import APLA, SSF, VPT, AdaptFormer, BitFit, FullTuning, LoRA, NormTuning
from monai_essa.pretext import MAE, MAEDecoder, SimMIM

timm = pytest.importorskip("timm", reason="timm is not installed; make test-bases installs it", exc_type=ImportError)

# How published checkpoints differ: registers, where positions begin, norms, pooling, biases.
FLAVOURS: dict[str, dict[str, Any]] = {
    "dinov2-registers": {"init_values": 0.5, "reg_tokens": 4, "no_embed_class": True, "num_classes": 0},
    "dinov2": {"init_values": 0.5, "num_classes": 0},
    "supervised": {"num_classes": 3},
    "clip": {"pre_norm": True, "num_classes": 3},
    "mae-pooled": {"global_pool": "avg", "num_classes": 3},
    "no-class-token": {"class_token": False, "global_pool": "avg", "qk_norm": True, "qkv_bias": False},
}
METHODS = {
    "apla": APLA(),
    "apla-columns": APLA(columns=5, seed=1),
    "lora": LoRA(rank=2),
    "lora-all": LoRA(rank=2, targets=("q", "k", "v", "o", "mlp", "conv")),
    "ssf": SSF(),
    "adaptformer": AdaptFormer(bottleneck=4),
    "bitfit": BitFit(),
    "norms": NormTuning(),
    "vpt": VPT(tokens=2),
    "vpt-shallow": VPT(tokens=2, deep=False),
    "full": FullTuning(),
}


def vit(flavour: str = "dinov2-registers", **changes: Any) -> nn.Module:
    """A tiny network with values drawn, LayerScale, tokens and positions included: nothing of it is neutral."""
    sizes = {"img_size": 28, "patch_size": 14, "embed_dim": 24, "depth": 2, "num_heads": 4, "dynamic_img_size": True}
    net = timm.models.vision_transformer.VisionTransformer(**(sizes | FLAVOURS[flavour] | changes))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


IMAGES = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def output_of(net: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return net(IMAGES.to(next(net.parameters()).dtype))


def perturbed(net: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("side", [28, 56])
def test_tokens_are_those_of_timm_for_any_crop(flavour, side):
    net, images = vit(flavour), torch.randn(2, 3, side, side)
    view = encoder_view(net, anatomy=timm_vit())
    with torch.no_grad():
        tokens, expected = view.encode_all(view.embed(images)), net.forward_features(images)
    torch.testing.assert_close(tokens, expected)
    assert view.has_class_token == (flavour != "no-class-token") and view.patch_size == (14, 14)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_starts_at_the_base_goes_through_a_file_and_merges_to_the_keys_of_timm(method, tmp_path):
    base = vit().double()
    expected = output_of(base)
    net = adapt(copy.deepcopy(base), METHODS[method], anatomy=timm_vit())
    prompts = method.startswith("vpt")
    assert torch.equal(output_of(net), expected) != prompts
    file = save_adapter(perturbed(net), tmp_path / "adapter.safetensors")
    adapted = output_of(net)
    assert not torch.allclose(adapted, expected, atol=1e-4)
    with disable_adapter(net):
        assert torch.equal(output_of(net), expected)
    assert torch.equal(output_of(load_adapter(copy.deepcopy(base), file, anatomy=timm_vit())), adapted)
    if prompts or method == "adaptformer":
        return
    merged = merge(net)
    assert type(merged) is type(base) and list(merged.state_dict()) == list(base.state_dict())
    plain = vit().double()
    plain.load_state_dict(merged.state_dict())
    torch.testing.assert_close(output_of(plain), adapted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["apla", "lora"])
@pytest.mark.parametrize("objective", ["mae", "simmim"])
def test_pretext_steps_reduce_the_loss_and_move_the_method_alone(method, objective):
    net = adapt(vit(), METHODS[method], anatomy=timm_vit())
    frozen = {name: p.detach().clone() for name, p in net.named_parameters() if not p.requires_grad}
    made = MAE(net, decoder=MAEDecoder(24, 1, 4)) if objective == "mae" else SimMIM(net, mask_unit=14)
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=3e-3)
    images = F.interpolate(torch.randn(4, 3, 8, 8), size=(56, 56), mode="bilinear")
    losses = []
    for _ in range(15):
        loss = made(images, generator=torch.Generator().manual_seed(0))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in net.named_parameters() if name in frozen)


def test_vit_b_14_trains_the_output_projections_of_twelve_blocks():
    """One network of the size that DINOv2 publishes, on a small image: a step of SimMIM, and back to timm's keys."""
    net = timm.create_model("vit_base_patch14_dinov2", img_size=70, num_classes=0, init_values=1.0).eval()
    image = torch.randn(1, 3, 70, 70)
    with torch.no_grad():
        base = net(image)
        assert torch.equal(adapt(net, APLA(), anatomy=timm_vit())(image), base)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 12 * (768 * 768 + 768)
    assert encoder_view(net).native_grid == (5, 5)
    objective = SimMIM(net, mask_unit=14)
    objective(image)["loss"].backward()
    torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=1.0).step()
    with torch.no_grad():
        adapted = net(image)
        assert not torch.allclose(adapted, base, atol=1e-5)
        net = merge(net)
        torch.testing.assert_close(net(image), adapted, rtol=1e-6, atol=1e-6)


def test_a_classifier_by_its_own_head_and_by_ours():
    own = adapt(vit("supervised"), APLA(), also_train=[r"head\..*"], anatomy=timm_vit())
    own(IMAGES).square().mean().backward()
    assert own.head.weight.grad is not None and own.blocks[0].attn.proj.weight.grad is not None
    net = vit()
    ours = classification_network(copy.deepcopy(net), 3, anatomy=timm_vit()).eval()
    with torch.no_grad():
        expected = ours.head(ours.head_norm(net.forward_features(IMAGES)[:, 0]))
        torch.testing.assert_close(ours(IMAGES), expected)


def test_a_checkpoint_of_timm_loads_by_its_own_names(tmp_path):
    base, fresh = vit(), vit(reg_tokens=4)
    for parameter in fresh.parameters():
        parameter.data.zero_()
    torch.save({"model": base.state_dict()}, tmp_path / "vit.pth")
    encoder_view(fresh, anatomy=timm_vit())
    report = load_weights(fresh, tmp_path / "vit.pth")
    assert report.encoder_share == 1 and torch.equal(output_of(fresh), output_of(base))


@pytest.mark.parametrize("recompute", ["none", "mlp", "block"])
def test_lean_leaves_the_gradients_of_timm_blocks(recompute):
    net = perturbed(adapt(vit(), LoRA(rank=2), anatomy=timm_vit()))
    twin = lean(copy.deepcopy(net), recompute=recompute)
    for each in (net, twin):
        each(IMAGES).square().mean().backward()
    gradients = [[p.grad for p in each.parameters() if p.requires_grad] for each in (net, twin)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one)
    merged = merge(twin)
    torch.testing.assert_close(output_of(merged), output_of(net))


def test_timm_is_refused_without_a_description():
    with pytest.raises(TypeError, match=r"^[^\n]*got VisionTransformer; [^\n]*anatomy=$"):
        adapt(vit(), APLA())
