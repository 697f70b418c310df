# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""DINOv2 as a whole: a teacher by reference, its moves after the step, all kinds of networks, lean and resumed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import ResNet, SegResNet, SwinUNETR, ViT
from torch import Tensor

from monai_essa.adapters.adaptation import adapt
from monai_essa.anatomy import keep_grid
from monai_essa.efficiency.lean import lean
from monai_essa.methods import APLA, VPT, AdaptationMethod, BitFit, FullTuning, LoRA
from monai_essa.pretext.distillation import DINOHead, DINOv2, DistillationSchedule, DistillationWeights
from monai_essa.pretext.distillation.crop_masks import crop_masks
from monai_essa.pretext.distillation.views import encode_tokens

HEAD = DINOHead(prototypes=16, hidden_size=24, bottleneck=8)
SCHEDULE = DistillationSchedule(steps=40)
SIZES = {"hidden_size": 24, "mlp_dim": 32, "num_layers": 2, "num_heads": 2}
NO_PATCHES = DistillationWeights(ibot=0.0)


def vit(dims: int = 3, class_token: bool = False) -> ViT:
    net = ViT(1, 16, 8 if dims == 3 else 4, spatial_dims=dims, classification=class_token, **SIZES)
    keep_grid(net, (2,) * 3 if dims == 3 else (4, 4))
    return net


def swin() -> SwinUNETR:
    return SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "vit": (vit, (16,) * 3, (8,) * 3),
    "vit_2d": (lambda: vit(2), (16, 16), (8, 8)),
    "vit_class_token": (lambda: vit(2, class_token=True), (16, 16), (8, 8)),
    "swin_2d": (swin, (64, 64), (64, 64)),
    "resnet": (lambda: ResNet("basic", [1, 1, 1, 1], [4, 4, 4, 8], 2, 1), (64, 64), (32, 32)),
    "segresnet": (lambda: SegResNet(3, 8, 1, 2, blocks_down=(1, 1, 1), blocks_up=(1, 1)), (16,) * 3, (8,) * 3),
}


def crops(shape: tuple[int, ...], views: int = 2, batch: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(batch, views, 1, *shape, generator=torch.Generator().manual_seed(seed))


def masks() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def small(method: AdaptationMethod | None = None, **settings: Any) -> DINOv2:
    torch.manual_seed(0)
    net = vit(2)
    return DINOv2(adapt(net, method or APLA()), SCHEDULE, HEAD, **settings)


def train(objective: DINOv2, steps: int = 2, optimizer: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
    optimizer = optimizer or torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        objective.train()(crops((16, 16)), crops((8, 8), 3), generator=masks())["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step()
    return optimizer


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_learns_in_twenty_steps_on_one_batch(name: str):
    make, large, little = NETWORKS[name]
    torch.manual_seed(0)
    weights = NO_PATCHES if name in ("resnet", "segresnet") else DistillationWeights()
    objective = DINOv2(adapt(make(), FullTuning()), SCHEDULE, HEAD, weights)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    losses = []
    for _ in range(20):  # the teacher stays: no call of after_step
        parts = objective(crops(large), crops(little, 1), generator=masks())
        parts["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(parts["loss"].detach()))
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize(
    "method", [APLA(columns=4), LoRA(rank=2), VPT(tokens=2), BitFit()], ids=lambda m: type(m).__name__
)
def test_frozen_tensors_are_the_students_and_those_of_the_base(method: AdaptationMethod):
    objective = small(method)
    base = {name: t.detach().clone() for name, t in objective.encoder.named_parameters() if not t.requires_grad}
    before = objective(crops((16, 16)), generator=masks())["loss"]

    seen: list[dict[str, tuple[int, bool]]] = []
    hook = objective.encoder.blocks[0].register_forward_hook(
        lambda *_: seen.append({n: (t.data_ptr(), t.requires_grad) for n, t in objective.encoder.named_parameters()})
    )
    train(objective, steps=3)
    hook.remove()
    now = dict(objective.encoder.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in base.items())
    teacher, student = seen[0], seen[1]
    assert all(teacher[name][0] == student[name][0] for name in base)
    averaged = {name.removeprefix("encoder.") for name in objective.teacher.tensors() if name.startswith("encoder.")}
    assert averaged == {name for name, tensor in now.items() if tensor.requires_grad} and averaged.isdisjoint(base)
    assert all(teacher.get(name, (None, 0))[0] != student[name][0] for name in averaged)
    assert objective(crops((16, 16)), generator=masks())["loss"] != before


def test_after_a_hundred_steps_frozen_tensors_are_those_of_the_base_in_one_storage():
    objective = small(APLA(columns=4))
    base = {name: tensor.clone() for name, tensor in objective.encoder.state_dict().items()}
    places = {name: tensor.data_ptr() for name, tensor in objective.encoder.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(100):
        objective.train()(crops((16, 16)), generator=masks())["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step()
    seen: list[dict[str, int]] = []
    hook = objective.encoder.blocks[1].register_forward_hook(
        lambda *_: seen.append({name: tensor.data_ptr() for name, tensor in objective.encoder.named_parameters()})
    )
    objective(crops((16, 16)), generator=masks())
    hook.remove()
    learned = {name for name, tensor in objective.encoder.named_parameters() if tensor.requires_grad}
    teacher, student = seen
    for name, tensor in objective.encoder.state_dict().items():
        assert torch.equal(tensor, base[name]) != (name in learned), name
    assert student == places and {name for name in places if teacher[name] != places[name]} == learned


def test_the_teacher_stays_at_momentum_one_and_follows_at_zero():
    for momentum, copied in ((1.0, False), (0.0, True)):
        objective = small()
        objective.schedule = DistillationSchedule(steps=10**9, momentum=momentum)
        before = copy.deepcopy(objective.teacher.tensors())
        train(objective, steps=1)
        student = dict(objective._student().named_parameters())
        expected = student if copied else before
        assert all(torch.equal(tensor, expected[name]) for name, tensor in objective.teacher.tensors().items())
        assert not all(torch.equal(tensor, student[name]) for name, tensor in before.items())


def test_running_statistics_are_a_part_of_the_teacher():
    for momentum, copied in ((1.0, False), (0.0, True)):
        objective = DINOv2(adapt(NETWORKS["resnet"][0](), FullTuning()), SCHEDULE, HEAD, NO_PATCHES)
        objective.schedule = DistillationSchedule(steps=10**9, momentum=momentum)
        name = "encoder.bn1.running_mean"
        before = objective.teacher.tensors()[name].clone()
        objective.train()(crops((64, 64)), generator=masks())
        assert torch.equal(objective.teacher.tensors()[name], before), "a forward pass moves no teacher"
        student = objective.encoder.get_buffer("bn1.running_mean").clone()
        assert not torch.equal(student, before)
        objective.after_step()
        expected = student if copied else before
        assert torch.equal(objective.teacher.tensors()[name], expected)
        objective.hand_over()
        assert torch.equal(objective.encoder.get_buffer("bn1.running_mean"), expected)


def test_a_forward_pass_moves_neither_teacher_nor_centre_nor_step():
    objective = small()
    before = copy.deepcopy(objective.state_dict())
    for _ in range(2):
        objective(crops((16, 16)), generator=masks())
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def test_the_teacher_is_in_eval_mode_and_the_student_in_its_own():
    objective = small().train()
    modes: list[bool] = []
    objective.encoder.blocks[0].mlp.register_forward_hook(lambda layer, *_: modes.append(layer.training))
    objective(crops((16, 16)), generator=masks())
    assert modes == [False, True] and objective.encoder.blocks[0].mlp.training


def test_the_mean_of_unmasked_tokens_is_the_image_token_without_a_class_token():
    net, drawn = vit(2).eval(), crop_masks(2, (4, 4), masks())
    image, patches = encode_tokens(net, crops((16, 16), 1, 2)[:, 0], drawn, torch.zeros(24))
    for row in range(2):
        torch.testing.assert_close(image[row], patches[row, ~drawn.mask[row].flatten()].mean(0))

    net = vit(2, class_token=True).eval()
    image, patches = encode_tokens(net, crops((16, 16), 1, 2)[:, 0])
    torch.testing.assert_close(image, net.norm(net(crops((16, 16), 1, 2)[:, 0])[1][-1])[:, 0])
    assert patches.shape == (2, 16, 24)


def test_the_student_does_not_see_masked_patches():
    """A change of a masked patch of the student's image alone changes nothing that the student makes."""
    for net, size in ((vit(2), 16), (swin(), 96)):
        grid = (4, 4) if size == 16 else (3, 3)
        drawn, images = crop_masks(2, grid, masks()), crops((size, size), 1, 2)[:, 0]
        hidden = drawn.mask.repeat_interleave(size // grid[0], 1).repeat_interleave(size // grid[1], 2)
        token = torch.zeros(24 if size == 16 else 12)
        one, other = (
            encode_tokens(net.eval(), seen, drawn, token) for seen in (images, images.masked_fill(hidden[:, None], 9.0))
        )
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize("recompute", ["none", "block"])
def test_lean_trains_student_and_teacher_to_the_same(recompute: str):
    plain, leaner = small(LoRA(rank=2)), lean(small(LoRA(rank=2)), recompute=recompute)
    for objective in (plain, leaner):
        train(objective, steps=2)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(leaner.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recompute", ["none", "block"])
def test_stored_frozen_weights_serve_student_and_teacher_under_autocast(recompute: str):
    objective = lean(small(), recompute=recompute, frozen_dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        parts = objective(crops((16, 16)), crops((8, 8)), generator=masks())
    parts["loss"].backward()
    objective.after_step()
    assert all(torch.isfinite(part) for part in parts.values())


def test_a_copy_goes_on_alike_and_by_itself():
    objective = small()
    optimizer = train(objective)
    twin = copy.deepcopy(objective)
    again = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=1e-2)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    untouched = copy.deepcopy(objective.state_dict())
    train(twin, 2, again)
    assert all(torch.equal(value, untouched[name]) for name, value in objective.state_dict().items())
    train(objective, 2, optimizer)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in objective.state_dict().items())


def test_the_state_holds_what_changes_once_and_the_frozen_base_once():
    objective = small()
    state = objective.state_dict()
    learning = {name for name, tensor in objective.named_parameters() if tensor.requires_grad}
    extra = {name for name in state if name.startswith("teacher.")}
    assert len(extra) == len(learning) - 1  # all but the mask token, which the student alone has
    assert {"step", "image_targets.centre", "patch_targets.centre", "mask_token"} <= state.keys()
    pointers = [tensor.data_ptr() for name, tensor in state.items() if tensor.numel()]
    assert len(set(pointers)) == len(pointers)


def test_the_hand_over_puts_the_teacher_into_the_encoder():
    objective = small()
    train(objective)
    averaged = {name: tensor.clone() for name, tensor in objective.teacher.tensors().items()}
    objective.hand_over()
    now = dict(objective.named_parameters())
    assert all(torch.equal(now[name], value) == name.startswith("encoder.") for name, value in averaged.items())


def test_gram_anchoring_is_zero_at_the_base_and_not_after_steps():
    objective = small(loss=DistillationWeights(gram=1.0, ibot=0.0))
    assert objective(crops((16, 16)), generator=masks())["gram"] < 1e-10
    train(objective)
    parts = objective(crops((16, 16)), generator=masks())
    assert parts["gram"] > 1e-8
    parts["loss"].backward()
    plain = small(loss=DistillationWeights(ibot=0.0))
    plain.load_state_dict(objective.state_dict())
    torch.testing.assert_close(parts["dino"], plain(crops((16, 16)), generator=masks())["dino"])


def test_gram_under_autocast_leaves_the_students_weights_to_the_student():
    objective = small(loss=DistillationWeights(gram=1.0, ibot=0.0))
    train(objective, steps=3)
    with torch.autocast("cpu", torch.bfloat16):
        parts = objective(crops((16, 16)), generator=masks())
    parts["gram"].backward()
    gradients = [p.grad for p in objective.encoder.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.any() for gradient in gradients)


def test_koleo_spreads_patients_and_not_crops_of_one():
    objective = small()
    with pytest.raises(ValueError, match="KoLeo needs 4 patients in a batch or more, got 3: raise batch_size"):
        objective(crops((16, 16)), patients=[1, 2, 3, 1], generator=masks())
    with pytest.raises(ValueError, match="KoLeo needs 4 patients in a batch or more, got 1"):
        objective(crops((16, 16), batch=1), generator=masks())
    six = crops((16, 16), batch=6)
    six[4:] = six[:2]  # the same scan twice has a distance of 0, which the loss would push apart
    assert objective(six, patients=[1, 2, 3, 4, 1, 2], generator=masks())["koleo"] < 10
    assert "koleo" not in objective.eval()(crops((16, 16), batch=2), generator=masks())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DINOv2(NETWORKS["resnet"][0](), SCHEDULE, HEAD), "iBOT masks patches, and ResNet embeds none"),
        (lambda: DINOv2(vit(), SCHEDULE, HEAD, DistillationWeights(gram=1.0)), "ViT is not adapted"),
        (lambda: DINOv2(vit(), SCHEDULE, HEAD, assignment="none"), "expected assignment to be one of"),
        (lambda: small()(crops((16, 16)), crops((2, 2)), generator=masks()), r"got \(2, 2\)"),
        (lambda: small()(crops((16, 18)), generator=masks()), r"got \(16, 18\)"),
        (
            lambda: DINOv2(swin(), SCHEDULE, HEAD)(crops((32, 64))),
            r"needs crops above its stride \(32, 32\), got \(32, 64\)",
        ),
        (lambda: small()(torch.rand(4, 1, 16, 16)), "make them by MultiCropd"),
        (lambda: small()(crops((16, 16), views=1), generator=masks()), "expected two student views"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
