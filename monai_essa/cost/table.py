# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A table of what each method costs on a network, by the meter and measured on this machine, with its yardstick.

The yardstick is masked image modelling as it is written by hand today, on MONAI's own networks and forward passes. All
tokens are predicted and the loss of the visible ones is multiplied by zero, as in the published code of MAE (He et al.
2022) and SimMIM (Xie et al. 2022). Our own objectives do the same work for masked tokens alone.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SegResNet, SwinUNETR, ViT
from torch import Tensor

from monai_essa.adapters.adaptation import adapt
from monai_essa.anatomy import keep_grid
from monai_essa.anatomy.parts import decoder_pattern
from monai_essa.cost.meter import Optimizer, StepCost, fused_adamw, step_cost
from monai_essa.cost.record import cost_record, use_recipe
from monai_essa.devices import default_device, is_gpu, peak_bytes, reset_peak, wait_for_gpu
from monai_essa.engines.steps import autocast_dtype
from monai_essa.engines.views import empty_views, local_crop_size
from monai_essa.methods import APLA, SSF, VPT, AdaptFormer, BitFit, FullTuning, HeadOnly, LoRA, NormTuning
from monai_essa.methods.method import AdaptationMethod
from monai_essa.pretext import (
    DIET,
    MAE,
    Contrastive,
    DINOv2,
    DistillationSchedule,
    DistillationWeights,
    SimMIM,
    masked_count,
    normalise_patches,
    patchify,
)
from monai_essa.pretext.batch_views import SPREAD

__all__ = [
    "METHODS",
    "NETWORKS",
    "OBJECTIVES",
    "CostRow",
    "CostWork",
    "MeasuredStep",
    "StockMAE",
    "StockSegmentation",
    "StockSimMIM",
    "cost_rows",
    "foreach_adamw",
    "measured_step",
    "named_method",
]

_CLASSES = 2
_PATCH = 16  # voxels along each side, of the ViTs
_DIET_IMAGES = 1000  # each is a class: for sites of about so many
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "vit_s": lambda size: ViT(1, size, 16, hidden_size=384, mlp_dim=1536, num_heads=6, qkv_bias=True),
    "vit_b": lambda size: ViT(1, size, 16, qkv_bias=True),
    "vit_l": lambda size: ViT(1, size, 16, hidden_size=1024, mlp_dim=4096, num_layers=24, num_heads=16, qkv_bias=True),
    "unetr_b": lambda size: UNETR(1, _CLASSES, size, qkv_bias=True),
    "swin_unetr": lambda size: SwinUNETR(1, _CLASSES, feature_size=48),
    "segresnet": lambda size: SegResNet(3, 16, out_channels=_CLASSES, blocks_down=(1, 2, 2, 4)),
}
OBJECTIVES = ("simmim", "mae", "dinov2", "contrastive", "diet", "segmentation")
_VIEWS = {"dinov2": (2, 4), "contrastive": (2, 0), "diet": (1, 0)}  # global and local ones, as in the bundles
METHODS: dict[str, Callable[..., AdaptationMethod]] = {
    "full": FullTuning,
    "apla": lambda columns=None: APLA(columns if columns is None or columns < 1 else int(columns)),
    "lora": lambda rank=8: LoRA(rank=int(rank)),
    "lora_conv": lambda rank=8: LoRA(rank=int(rank), targets=("conv",)),
    "adaptformer": lambda bottleneck=64: AdaptFormer(int(bottleneck)),
    "vpt": lambda tokens=10: VPT(int(tokens)),
    "ssf": SSF,
    "bitfit": BitFit,
    "norms": NormTuning,
    "head": HeadOnly,
}


@dataclass(frozen=True)
class CostWork:
    """What a step trains.

    Attributes:
        network: one of :data:`NETWORKS`.
        size: voxels along each side of a cubic crop.
        batch: crops in a step.
        objective: one of :data:`OBJECTIVES`; ``"segmentation"`` has the decoder training.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    """

    network: str
    size: int = 96
    batch: int = 2
    objective: str = "simmim"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name, known in (("network", NETWORKS), ("objective", OBJECTIVES)):
            if getattr(self, name) not in known:
                raise ValueError(f"expected {name} to be one of {', '.join(known)}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class CostRow:
    """One line of the table: a method under a recipe, its cost, and that as plain values with the network's parts.

    Where a GPU took the step, ``measured`` holds its times and its peak.
    """

    method: str
    recipe: str
    cost: StepCost
    record: dict[str, Any]
    measured: MeasuredStep | None = None


def named_method(name: str) -> AdaptationMethod:
    """Make a method from its name and, after a colon, its size: ``apla:0.25``, ``apla:128``, ``lora:16``, ``vpt:50``.

    Raises:
        ValueError: if there is no such method or it takes no such size.

    Example:
        >>> named_method("apla:0.25"), named_method("bitfit")
        (APLA(columns=0.25, seed=0), BitFit(norms=False))
    """
    kind, _, size = name.partition(":")
    if kind not in METHODS:
        raise ValueError(f"expected a method of {', '.join(METHODS)}, got {name!r}")
    try:
        return METHODS[kind](float(size)) if size else METHODS[kind]()
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a method like apla:0.25, lora:16 or bitfit, got {name!r}") from error


def cost_rows(work: CostWork, methods: Sequence[str], recipes: Sequence[str]) -> list[CostRow]:
    """Measure full-parameter training as MONAI does it, then each method under each recipe.

    Args:
        work: what a step trains.
        methods: names for :func:`named_method`.
        recipes: names for :func:`~monai_essa.cost.use_recipe`.

    Raises:
        ValueError: if a name is unknown, or the objective does not fit the network.
    """
    chosen = {name: named_method(name) for name in methods}
    rows = [_row(work, "full", FullTuning(), "none", stock=True)]
    return rows + [_row(work, name, chosen[name], recipe, stock=False) for name in methods for recipe in recipes]


@dataclass(frozen=True)
class MeasuredStep:
    """Medians over the steps.

    Attributes:
        forward_seconds: of the forward pass.
        backward_seconds: of the backward pass.
        optimizer_seconds: of the optimizer.
        images_per_second: of the whole step; loading images is not in it.
        peak_bytes: the most that CUDA gave out; None on another device.
    """

    forward_seconds: float
    backward_seconds: float
    optimizer_seconds: float
    images_per_second: float
    peak_bytes: int | None


def measured_step(
    objective: nn.Module,
    *inputs: Any,
    optimizer: Optimizer = fused_adamw,
    autocast: torch.dtype | None = None,
    steps: int = 5,
) -> MeasuredStep:
    """Take training steps with a copy of an objective, on the device that it is on.

    Args:
        objective: as for :func:`~monai_essa.cost.step_cost`; left as it is.
        inputs: what it is called with, on its device.
        optimizer: makes the optimizer of the parameters that learn.
        autocast: number format of the forward pass; None computes in that of the weights.
        steps: that are timed, after one that is not.

    Raises:
        ValueError: if there is no step to time.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> from monai_essa.methods import APLA
        >>> from monai_essa.pretext import SimMIM
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), APLA())
        >>> measured_step(SimMIM(encoder=net), torch.rand(2, 1, 32, 32, 32), steps=1).images_per_second > 0
        True
    """
    if steps < 1:
        raise ValueError(f"expected one step or more to time, got {steps}")
    worker = copy.deepcopy(objective).train()
    device = next(worker.parameters()).device
    owner = optimizer([parameter for parameter in worker.parameters() if parameter.requires_grad])
    clock = _Clock(device)

    def step() -> tuple[float, float, float]:
        begin = clock()
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            loss = worker(*inputs)["loss"]
        forward = clock()
        loss.backward()
        backward = clock()
        owner.step()
        owner.zero_grad(set_to_none=True)
        return forward - begin, backward - forward, clock() - backward

    step()  # the optimizer's state and the pools of memory appear
    reset_peak(device)
    times = [step() for _ in range(steps)]
    forward, backward, update = (statistics.median(part) for part in zip(*times, strict=True))
    images = len(next(value for value in inputs if isinstance(value, torch.Tensor)))
    seconds = statistics.median(map(sum, times))
    return MeasuredStep(forward, backward, update, images / seconds, peak_bytes(device))


def foreach_adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return torch's default AdamW, which makes temporaries as large as all gradients.

    Example:
        >>> foreach_adamw([nn.Parameter(torch.zeros(3))]).defaults["fused"] is None
        True
    """
    return torch.optim.AdamW(parameters)


class StockSimMIM(nn.Module):
    """SimMIM on MONAI's ViT: mask token, all blocks, one linear layer on every token, L1 of the masked ones.

    Args:
        encoder: a ViT.
        patch_size: voxels of its patches along each axis.
        mask_ratio: share of the patches that are masked.

    Example:
        >>> net = ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> StockSimMIM(net, (8, 8, 8))(torch.rand(2, 1, 32, 32, 32))["loss"].shape
        torch.Size([])
    """

    def __init__(self, encoder: ViT, patch_size: tuple[int, ...], mask_ratio: float = 0.6) -> None:
        super().__init__()
        self.encoder = encoder
        self.patch_size = patch_size
        self.mask_ratio = mask_ratio
        width = encoder.norm.normalized_shape[0]
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.head = nn.Linear(width, torch.Size(patch_size).numel())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the loss of images (B, 1, spatial...)."""
        embedding = self.encoder.patch_embedding
        tokens = embedding.patch_embeddings(images).flatten(2).transpose(1, 2)  # (B, N, D)
        mask = _mask(tokens, self.mask_ratio)  # (B, N)
        tokens = torch.where(mask[..., None], self.mask_token, tokens) + embedding.position_embeddings
        for block in self.encoder.blocks:
            tokens = block(tokens)
        prediction = self.head(self.encoder.norm(tokens))  # (B, N, V)
        errors = (prediction - patchify(images, self.patch_size)).abs().mean(-1)
        return {"loss": (errors * mask).sum() / mask.sum()}


class StockMAE(nn.Module):
    """MAE by MONAI's MaskedAutoEncoderViT: every patch is predicted, L2 on normalised patches, the masked ones count.

    Args:
        network: the masked autoencoder.
        patch_size: voxels of its patches along each axis.

    Example:
        >>> net = MaskedAutoEncoderViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> StockMAE(net, (8, 8, 8))(torch.rand(2, 1, 32, 32, 32))["loss"].shape
        torch.Size([])
    """

    def __init__(self, network: MaskedAutoEncoderViT, patch_size: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the loss of images (B, 1, spatial...)."""
        prediction, mask = self.network(images)  # (B, N, V) and (B, N)
        errors = (prediction - normalise_patches(patchify(images, self.patch_size))).square().mean(-1)
        return {"loss": (errors * mask).sum() / mask.sum()}


class StockSegmentation(nn.Module):
    """Voxel-wise cross-entropy of a network's logits.

    Args:
        network: maps images (B, 1, spatial...) to logits (B, classes, spatial...).

    Example:
        >>> objective = StockSegmentation(nn.Conv2d(1, 3, 1))
        >>> objective(torch.rand(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))["loss"].shape
        torch.Size([])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the loss of images with labels (B, spatial...), class numbers."""
        return {"loss": F.cross_entropy(self.network(images), labels)}


def _row(work: CostWork, name: str, method: AdaptationMethod, recipe: str, stock: bool) -> CostRow:
    labelled = work.objective == "segmentation"
    network = NETWORKS[work.network](work.size)
    if labelled and isinstance(network, ViT):
        raise ValueError(f"expected a network with a decoder for segmentation, got {work.network}; use unetr_b")
    if isinstance(network, ViT):
        keep_grid(network, (work.size // _PATCH,) * 3)  # which local crops need, and a ViT does not store
    adapt(network, method, also_train=[decoder_pattern(network)] if labelled else [])
    objective = use_recipe(_objective(work, network), recipe, work.precision)
    inputs = _inputs(work, objective, network)
    autocast = autocast_dtype(work.precision)
    optimizer = foreach_adamw if stock else fused_adamw
    cost = step_cost(objective, *inputs, optimizer=optimizer, autocast=autocast)
    measured = None
    device = default_device()
    if is_gpu(device):
        real = [torch.zeros(given.shape, dtype=given.dtype, device=device) for given in inputs]
        measured = measured_step(objective.to(device), *real, optimizer=optimizer, autocast=autocast)
    record = cost_record(cost, network) | ({"measured": asdict(measured)} if measured else {})
    return CostRow(f"{name}, MONAI's own" if stock else name, recipe, cost, record, measured)


def _objective(work: CostWork, network: nn.Module) -> nn.Module:
    if work.objective == "dinov2":
        ibot = 0.0 if isinstance(network, SegResNet) else 1.0  # a CNN has no patches to mask
        loss = DistillationWeights(ibot=ibot, koleo=0.1 if work.batch >= SPREAD else 0.0)
        return DINOv2(network, DistillationSchedule(steps=1), loss=loss)
    if work.objective == "diet":
        return DIET(network, images=_DIET_IMAGES)
    if work.objective == "segmentation":
        return StockSegmentation(network)
    return {"mae": MAE, "contrastive": Contrastive, "simmim": SimMIM}[work.objective](encoder=network)


def _inputs(work: CostWork, objective: nn.Module, network: nn.Module) -> list[Tensor]:
    """Return what a step is called with, on the meta device."""
    side = [work.size] * 3
    if work.objective in _VIEWS:
        return empty_views(objective, work.batch, 1, _VIEWS[work.objective], (side, local_crop_size(network, side)))
    images = torch.empty(work.batch, 1, *side, device="meta")
    if work.objective == "segmentation":
        return [images, torch.empty(work.batch, *side, dtype=torch.int64, device="meta")]
    return [images]


class _Clock:
    """Read the clock once everything before is done: a GPU works on while Python goes ahead."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = is_gpu(device)

    def __call__(self) -> float:
        if self._on_gpu:
            wait_for_gpu()
        return time.perf_counter()


def _mask(tokens: Tensor, ratio: float) -> Tensor:
    ranks = torch.rand(tokens.shape[:2], device=tokens.device).argsort(1)
    return ranks < masked_count(tokens.shape[1], ratio)
