# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Every objective of views learns with every kind of network: twenty steps on one batch of real scans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.nets import ResNet, SegResNet, SwinUNETR, ViT
from torch import Tensor

from monai_essa.adapters.adaptation import adapt
from monai_essa.methods import FullTuning
from monai_essa.pretext import DIET, Contrastive, DINOHead, DINOv2, DistillationSchedule, DistillationWeights

BATCH, STEPS = 8, 20
VIT = {"hidden_size": 24, "mlp_dim": 32, "num_layers": 2, "num_heads": 2}
HEAD = DINOHead(prototypes=16, hidden_size=24, bottleneck=8)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vit_2d": (lambda: ViT(1, 16, 8, spatial_dims=2, **VIT), (16, 16)),
    "vit": (lambda: ViT(1, 16, 8, **VIT), (16, 16, 16)),
    "vit_class_token": (lambda: ViT(1, 16, 8, classification=True, **VIT), (16, 16, 16)),
    "swin_2d": (lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1)), (64, 64)),
    "swin": (lambda: SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1)), (64, 64, 64)),
    "segresnet": (lambda: SegResNet(3, 8, 1, 2, blocks_down=(1, 1, 1), blocks_up=(1, 1)), (16, 16, 16)),
    "resnet_2d": (lambda: ResNet("basic", [1, 1, 1, 1], [4, 4, 4, 8], 2, 1), (64, 64)),
}
OBJECTIVES: dict[str, Callable[[nn.Module, str], nn.Module]] = {
    "dinov2": lambda net, name: DINOv2(
        net, DistillationSchedule(steps=40), HEAD, DistillationWeights(ibot=0.0 if "resnet" in name else 1.0)
    ),
    "nt-xent": lambda net, _: Contrastive(net, projection=16),
    "barlow": lambda net, _: Contrastive(net, "barlow", projection=16),
    "diet": lambda net, _: DIET(net, images=BATCH),
}
FAST = {"vit_2d", "resnet_2d"}  # of make test; the others are of make test-all


def scans(data_dir: Path, shape: tuple[int, ...]) -> Tensor:
    """Eight real scans (B, 1, spatial...) of a size, or X-rays."""
    if len(shape) == 2:
        images = np.load(data_dir / "pneumoniamnist" / "pneumoniamnist.npz")["train_images"][:BATCH].astype(np.float32)
        found = list(torch.from_numpy(images)[:, None])
    else:
        folder = data_dir / "hippocampus-tiny"
        items = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["training"][:BATCH]
        found = [torch.from_numpy(nib.load(folder / item["image"]).get_fdata(dtype=np.float32))[None] for item in items]
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    resized = torch.stack([F.interpolate(image[None], size=shape, mode=mode)[0] for image in found])
    return (resized - resized.mean()) / resized.std()


def batch(data_dir: Path, shape: tuple[int, ...]) -> Tensor:
    """Two views (B, 2, 1, spatial...) of each scan, one moved and darker."""
    first = scans(data_dir, shape)
    return torch.stack([first, 0.8 * first.roll(2, dims=-1) - 0.1], dim=1)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.full) for name in NETWORKS]
)
def test_the_last_steps_are_better_than_the_first(name: str, objective: str, data_dir: Path):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    learner = OBJECTIVES[objective](adapt(make(), FullTuning()), name)
    inputs = (batch(data_dir, shape), *([torch.arange(BATCH)] if objective == "diet" else []))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3)
    losses = []
    for _ in range(STEPS):  # a teacher stays where it is
        loss = learner(*inputs, generator=torch.Generator().manual_seed(3))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.slow
def test_a_swin_unetr_in_3d_takes_a_step_by_dinov2(data_dir: Path):
    make, shape = NETWORKS["swin"]
    torch.manual_seed(0)
    weights = DistillationWeights(koleo=0.0)
    learner = DINOv2(adapt(make(), FullTuning()), DistillationSchedule(steps=4), HEAD, weights)
    crops = torch.stack([scans(data_dir, shape)[:1]] * 2, dim=1)
    parts = learner(crops, generator=torch.Generator().manual_seed(0))
    parts["loss"].backward()
    assert parts["ibot"] > 0 and learner.encoder.swinViT.patch_embed.proj.weight.grad.any()
    assert learner.mask_token.grad.any()
