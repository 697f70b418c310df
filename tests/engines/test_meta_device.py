# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Every objective takes a step with every method and every recipe where no tensor may be on the CPU: the meta device.

A tensor that code makes on the default device, and not on that of its inputs, ends the step, as it would on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
from monai.losses import DiceCELoss
from monai.networks.nets import UNETR, SegResNet, SwinUNETR, ViT

from monai_essa import adapt
from monai_essa.anatomy import classification_network
from monai_essa.cost import use_recipe
from monai_essa.engines import Supervised
from monai_essa.methods import APLA, SSF, VPT, AdaptFormer, BitFit, FullTuning, LoRA, NormTuning
from monai_essa.methods.method import AdaptationMethod
from monai_essa.pretext import (
    DIET,
    MAE,
    Contrastive,
    DINOHead,
    DINOv2,
    DistillationSchedule,
    DistillationWeights,
    MAEDecoder,
    SimMIM,
)

SIZES = {"hidden_size": 24, "mlp_dim": 24, "num_heads": 2, "spatial_dims": 2, "qkv_bias": True}
METHODS: dict[str, AdaptationMethod] = {
    "apla": APLA(),
    "apla columns": APLA(columns=4),
    "lora": LoRA(rank=2, targets=("q", "k", "v", "o", "mlp")),
    "adaptformer": AdaptFormer(bottleneck=4),
    "vpt": VPT(tokens=2),
    "ssf": SSF(),
    "bitfit": BitFit(),
    "norms": NormTuning(),
    "full": FullTuning(),
}
RECIPES = [("none", "fp32"), ("fast", "fp32"), ("small", "fp32"), ("small", "bf16")]


def vit() -> nn.Module:
    return ViT(1, 32, 8, num_layers=2, **SIZES)


def swin() -> nn.Module:
    return SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1))


def distilled(net: nn.Module) -> nn.Module:
    return DINOv2(
        net,
        DistillationSchedule(steps=4, steps_per_epoch=2),
        DINOHead(prototypes=16, hidden_size=16),
        DistillationWeights(gram=1.0),
    )


def images(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


# Network, objective of it, and what the objective is called with.
WORK: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], nn.Module], Callable[[], tuple[object, ...]]]] = {
    "mae": (
        vit,
        lambda net: MAE(net, decoder=MAEDecoder(hidden_size=12, depth=1, num_heads=2)),
        lambda: (images(2, 1, 32, 32), images(2, 1, 32, 32)),
    ),
    "simmim": (vit, SimMIM, lambda: (images(2, 1, 32, 32), None)),
    "simmim of swin": (swin, SimMIM, lambda: (images(2, 1, 64, 64), None)),
    "dinov2": (vit, distilled, lambda: (images(4, 2, 1, 32, 32), images(4, 2, 1, 16, 16), [0, 1, 2, 3])),
    "contrast": (vit, Contrastive, lambda: (images(8, 2, 1, 32, 32), None, list(range(8)))),
    "barlow": (vit, lambda net: Contrastive(net, "barlow"), lambda: (images(8, 2, 1, 32, 32),)),
    "diet": (
        vit,
        lambda net: DIET(net, images=8),
        lambda: (images(2, 1, 1, 32, 32), torch.empty(2, dtype=torch.int64, device="meta")),
    ),
    "segmentation": (
        lambda: UNETR(1, 2, 32, feature_size=4, **SIZES),
        lambda net: Supervised(net, DiceCELoss(softmax=True)),
        lambda: (images(2, 1, 32, 32), images(2, 2, 32, 32)),
    ),
    "classification": (
        lambda: classification_network(vit(), num_classes=3),
        lambda net: Supervised(net, nn.CrossEntropyLoss()),
        lambda: (images(2, 1, 32, 32), torch.empty(2, dtype=torch.int64, device="meta")),
    ),
}


def take_step(objective: nn.Module, inputs: tuple[object, ...], precision: str) -> None:
    dtype = torch.bfloat16 if precision == "bf16" else None
    learning = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    for _ in range(2):
        with torch.autocast("meta", dtype=dtype, enabled=dtype is not None):
            loss = objective(*inputs)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    getattr(objective, "after_step", lambda: None)()
    assert {tensor.device.type for tensor in objective.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_makes_no_tensor_on_the_default_device(work: str, method: str) -> None:
    build, make, inputs = WORK[work]
    for recipe, precision in RECIPES:
        with torch.device("meta"):
            net = build()
        adapt(net, METHODS[method], also_train=["head.*"] if work == "classification" and method != "full" else ())
        objective = use_recipe(make(net), recipe, precision, torch.device("meta")).train()
        take_step(objective, inputs(), precision)


def test_a_cnn_with_updates_of_its_convolutions_does_neither() -> None:
    with torch.device("meta"):
        net = SegResNet(2, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,))
    adapt(net, LoRA(rank=2, targets=("conv",)))
    take_step(
        use_recipe(SimMIM(net, mask_unit=8), "fast", device=torch.device("meta")), (images(2, 1, 32, 32),), "fp32"
    )


def test_a_tensor_on_the_default_device_is_found() -> None:
    class Careless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, device="meta")

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.layer(images) + torch.ones(2)).sum()}

    with pytest.raises(RuntimeError, match="device"):
        take_step(Careless(), (images(3, 2),), "fp32")
