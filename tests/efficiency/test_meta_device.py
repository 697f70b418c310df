# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A step of every objective x method x lean recipe on another device than the default one, without a GPU.

On the meta device an operation with a tensor of the CPU fails, as on a GPU. So a tensor that is made on the default
device instead of on that of the images is found here. Autocast does not know the meta device: it stays out of the step.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import SegResNet, ViT

from monai_essa import adapt, lean
from monai_essa.methods import APLA, SSF, VPT, AdaptFormer, BitFit, LoRA, NormTuning
from monai_essa.pretext import (
    DIET,
    MAE,
    Contrastive,
    DINOHead,
    DINOv2,
    DistillationSchedule,
    DistillationWeights,
    SimMIM,
)

META, SIDE, BATCH = torch.device("meta"), (32, 32, 32), 8
METHODS = [
    APLA(),
    APLA(columns=4),
    LoRA(dropout=0.1),
    AdaptFormer(),
    VPT(tokens=1),
    SSF(),
    BitFit(),
    NormTuning(),
    [APLA(), LoRA()],
]
OBJECTIVES = ("mae", "simmim", "dinov2", "contrastive", "diet")


def _objective(name: str, network: nn.Module, **weights: float) -> nn.Module:
    if name == "dinov2":
        schedule, head = DistillationSchedule(steps=10), DINOHead(prototypes=32, hidden_size=64)
        return DINOv2(network, schedule, head, DistillationWeights(**weights))
    made: dict[str, Any] = {"mae": MAE, "simmim": SimMIM, "contrastive": Contrastive}
    return DIET(network, images=BATCH) if name == "diet" else made[name](network)


def _inputs(name: str) -> tuple[Any, ...]:
    images = torch.zeros(BATCH, 1, *SIDE, device=META)
    views = images[:, None].expand(-1, 2, -1, -1, -1, -1)
    others = {
        "dinov2": (views, views),
        "contrastive": (views,),
        "diet": (images[:, None], torch.zeros(BATCH, dtype=torch.long, device=META)),
    }
    return others.get(name, (images, torch.ones_like(images)))


@pytest.fixture(autouse=True)
def _autocast_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    autocast, enabled, dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype
    knows = torch.amp.is_autocast_available
    own = {"autocast": lambda kind, *a, **k: autocast(kind, *a, **k) if knows(kind) else nullcontext()}
    own["is_autocast_enabled"] = lambda kind="cuda": knows(kind) and enabled(kind)
    own["get_autocast_dtype"] = lambda kind: dtype(kind) if knows(kind) else torch.float32
    for name, function in own.items():
        monkeypatch.setattr(torch, name, function)


def _step(objective: nn.Module, name: str, recompute: str) -> None:
    objective = lean(objective.to(META), recompute=recompute)
    objective.train()
    objective(*_inputs(name))["loss"].backward()
    learning = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    assert any(parameter.grad is not None for parameter in learning)
    torch.optim.AdamW(learning).step()
    getattr(objective, "after_step", lambda: None)()


@pytest.mark.parametrize("recompute", ["none", "mlp", "block"])
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_of_a_transformer_makes_no_tensor_on_the_default_device(name: str, method: Any, recompute: str) -> None:
    network = adapt(ViT(1, SIDE, 16, 24, 48, 1, 4, qkv_bias=True), method)
    _step(_objective(name, network), name, recompute)


@pytest.mark.parametrize("method", [LoRA(targets=("conv",)), SSF(), NormTuning()], ids=str)
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "mae"])
def test_a_step_of_a_cnn_makes_no_tensor_on_the_default_device(name: str, method: Any) -> None:
    network = adapt(SegResNet(3, 8, 1, 2, blocks_down=(1, 1, 1, 1), blocks_up=(1, 1, 1)), method)
    weights = {"ibot": 0.0} if name == "dinov2" else {}
    _step(_objective(name, network, **weights), name, "none")


def test_a_tensor_on_the_default_device_is_found() -> None:
    class Planted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, images: torch.Tensor, foreground: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (images * torch.ones(32) * self.weight).mean()}

    with pytest.raises(RuntimeError, match="meta"):
        Planted().to(META)(*_inputs("mae"))
