# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A whole training agrees with an independent one: loops in float64, a copied teacher, torch's own weight norm."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.nets import ViT
from torch import Tensor
from torch.nn.utils.parametrizations import weight_norm

from monai_essa.adapters.adaptation import adapt
from monai_essa.anatomy import keep_grid
from monai_essa.engines.views import WeightDecaySchedule
from monai_essa.methods import APLA
from monai_essa.pretext.distillation import DINOHead, DINOv2, DistillationSchedule
from monai_essa.pretext.distillation.crop_masks import CropMasks, crop_masks

STEPS, FROZEN, WARM = 50, 6, 10
SCANS, GRID, WIDTH = 4, 4, 16
HEAD = DINOHead(prototypes=12, hidden_size=20, bottleneck=6)
LR, DECAY = 3e-3, 1e-2


def network() -> ViT:
    torch.manual_seed(1)
    net = ViT(1, 16, 4, WIDTH, 24, 2, 2, spatial_dims=2).double()
    keep_grid(net, (GRID, GRID))
    return net


class Reference:
    """Student and teacher are two whole networks, and each formula is a loop over views, scans and patches."""

    def __init__(self, net: ViT, start: DINOv2) -> None:
        self.student, self.head = net.requires_grad_(False), head_like(start)
        self.student.mask_token = nn.Parameter(torch.zeros(WIDTH, dtype=torch.float64))
        for block in self.student.blocks:
            block.attn.out_proj.requires_grad_(True)
        self.teacher, self.teacher_head = copy.deepcopy(self.student).eval(), copy.deepcopy(self.head).eval()
        self.centres = [torch.zeros(HEAD.prototypes, dtype=torch.float64) for _ in range(2)]
        learning = [p for part in (self.student, self.head) for p in part.parameters() if p.requires_grad]
        self.optimizer = rates(nn.ParameterList(learning))

    def step(self, number: int, views: Tensor, local: Tensor, masks: CropMasks) -> dict[str, float]:
        """Take a step on crops (B, V, C, H, W)."""
        tau = 0.04 + 0.03 * min(1.0, number / (WARM - 1))
        cosine = (1 + math.cos(math.pi * number / STEPS)) / 2
        hidden = masks.mask.flatten(1).unflatten(0, (2, SCANS))  # (V, B, N)
        masked = [(v, b) for v in range(2) for b in range(SCANS) if hidden[v, b].any()]

        with torch.no_grad():
            seen = [tokens(self.teacher, views[:, v]) for v in range(2)]
            teacher = [self.teacher_head(view.mean(1)) for view in seen]
            whole = {crop: self.teacher_head(seen[crop[0]][crop[1], hidden[crop]]) for crop in masked}
        targets = [((view - self.centres[0]) / tau).softmax(-1) for view in teacher]

        seen = [tokens(self.student, views[:, v], hidden[v]) for v in range(2)]
        images = [[seen[v][b, ~hidden[v, b]].mean(0) for b in range(SCANS)] for v in range(2)]
        small = [tokens(self.student, local[:, v]).mean(1) for v in range(local.shape[1])]
        student = [self.head(view) for view in (*map(torch.stack, images), *small)]

        pairs = [(t, v) for t in range(2) for v in range(len(student)) if t != v]
        dino = sum(cross_entropy(targets[t], student[v]) for t, v in pairs)
        ibot = sum(
            cross_entropy(((logits - self.centres[1]) / tau).softmax(-1), self.head(seen[v][b, hidden[v, b]]))
            for (v, b), logits in whole.items()
        )
        parts = {"dino": dino / len(pairs), "ibot": ibot / (2 * SCANS), "koleo": sum(spread(view) for view in images)}
        self.optimizer.zero_grad()
        (parts["dino"] + parts["ibot"] + 0.1 * parts["koleo"]).backward()
        if number < FROZEN:
            self.head[-1].parametrizations.weight.original1.grad = None
        self.optimizer.param_groups[0]["weight_decay"] = 10 * DECAY + (DECAY - 10 * DECAY) * cosine
        self.optimizer.step()
        self._after(1 + (0.994 - 1) * cosine, teacher, whole)
        parts["entropy"] = -sum((view * view.log()).sum() / (2 * SCANS) for view in targets)
        return {name: float(part.detach()) for name, part in parts.items()}

    @torch.no_grad()
    def _after(self, momentum: float, teacher: list[Tensor], patches: dict) -> None:
        for own, students in ((self.teacher, self.student), (self.teacher_head, self.head)):
            for average, value in zip(own.parameters(), students.parameters(), strict=True):
                average.copy_(momentum * average + (1 - momentum) * value)
        for number, seen in enumerate((torch.cat(teacher), torch.cat(list(patches.values())))):
            self.centres[number] = 0.9 * self.centres[number] + 0.1 * seen.mean(0)


def head_like(start: DINOv2) -> nn.Sequential:
    """DINO's head with the weights of ours: linear layers, GELU, length 1, and a weight-normed layer of gain 1."""
    parts: list[nn.Module] = []
    for layer in start.head.layers:
        parts += [copy.deepcopy(layer), nn.GELU()]
    last = weight_norm(nn.Linear(HEAD.bottleneck, HEAD.prototypes, bias=False).double())
    last.parametrizations.weight.original1.data.copy_(start.head.prototypes)
    last.parametrizations.weight.original0.data.fill_(1)
    last.parametrizations.weight.original0.requires_grad_(False)
    return nn.Sequential(*parts[:-1], _UnitLength(), last)


class _UnitLength(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values / values.pow(2).sum(-1, keepdim=True).sqrt()


def tokens(net: ViT, images: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Run a ViT on pictures (B, C, H, W) layer by layer; hidden patches (B, N) are the mask token."""
    embedded = net.patch_embedding.patch_embeddings(images).flatten(2).transpose(1, 2)
    if hidden is not None:
        embedded = torch.where(hidden[..., None], net.mask_token, embedded)
    positions, side = net.patch_embedding.position_embeddings, math.isqrt(embedded.shape[1])
    if side != GRID:
        grid = positions.transpose(1, 2).reshape(1, WIDTH, GRID, GRID)
        positions = F.interpolate(grid, size=(side, side), mode="bicubic").flatten(2).transpose(1, 2)
    states = embedded + positions
    for block in net.blocks:
        states = block(states)
    return net.norm(states)


def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """The mean over rows (n, K)."""
    powers = (logits / 0.1).exp()
    return -(target * (powers / powers.sum(1, keepdim=True)).log()).sum() / len(target)


def spread(images: list[Tensor]) -> Tensor:
    unit = [image / image.norm() for image in images]
    nearest = [min((one - other).norm() for other in unit if other is not one) for one in unit]
    return -sum(distance.log() for distance in nearest) / len(unit)


def rates(objective: nn.Module) -> torch.optim.AdamW:
    """AdamW without decay of vectors."""
    learning = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    groups = [[p for p in learning if p.dim() > 1], [p for p in learning if p.dim() == 1]]
    return torch.optim.AdamW(
        [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}], LR, weight_decay=DECAY
    )


def test_fifty_steps_agree_with_an_independent_training():
    base = network()
    schedule = DistillationSchedule(steps=STEPS, steps_per_epoch=FROZEN, warmup=WARM / STEPS)
    objective = DINOv2(adapt(copy.deepcopy(base), APLA()), schedule, HEAD).double()
    reference, optimizer = Reference(base, objective), rates(objective)
    decay = WeightDecaySchedule(optimizer, DECAY, 10 * DECAY, STEPS)
    for number in range(STEPS):
        draw = torch.Generator().manual_seed(number)
        views = torch.rand(SCANS, 2, 1, 16, 16, generator=draw, dtype=torch.float64)
        local = torch.rand(SCANS, 2, 1, 8, 8, generator=draw, dtype=torch.float64)
        expected = reference.step(number, views, local, crop_masks(2 * SCANS, (GRID, GRID), draw_masks(number)))

        parts = objective(views, local, generator=draw_masks(number))
        optimizer.zero_grad()
        parts["loss"].backward()
        decay.set(number)
        objective.before_step()
        optimizer.step()
        objective.after_step()
        assert {name: float(parts[name].detach()) for name in expected} == pytest.approx(expected, abs=1e-5)

    assert int(objective.step) == STEPS
    torch.testing.assert_close(objective.image_targets.centre, reference.centres[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(objective.patch_targets.centre, reference.centres[1], rtol=1e-4, atol=1e-6)
    for name, average in objective.teacher.tensors().items():
        if name.startswith("encoder."):
            copied = reference.teacher.get_parameter(name.removeprefix("encoder."))
            torch.testing.assert_close(average, copied, rtol=1e-4, atol=1e-6)


def draw_masks(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)
