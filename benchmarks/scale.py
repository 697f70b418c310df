# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""How much a benchmark does: the sizes that are published, or tiny ones that only show that the command works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn as nn
from monai.networks.nets import UNETR, SwinUNETR, ViT

from benchmarks.reference_work import REFERENCE_WORK, ReferenceWork
from monai_essa.adapters.adaptation import adapt
from monai_essa.cost.table import StockSegmentation, StockSimMIM
from monai_essa.methods import FullTuning
from monai_essa.pretext import SimMIM

__all__ = ["KINDS", "Growth", "Scale", "full_scale", "quick_scale"]

# What --work calls a network, and how the names of its works begin.
KINDS = {"vit": "ViT", "mae": "MAE", "unetr": "UNETR", "swin": "SwinUNETR"}
_DECODER = (r"(?!swinViT\.).*",)


@dataclass(frozen=True)
class Growth:
    """A network at several sizes of the volume, with one volume in a step.

    Attributes:
        name: of the network.
        work: makes the work for volumes of a side.
        sides: voxels along each axis.
    """

    name: str
    work: Callable[[int], ReferenceWork]
    sides: tuple[int, ...]


@dataclass(frozen=True)
class Scale:
    """What is measured.

    Attributes:
        title: of the page.
        works: whose steps are counted.
        growths: whose peaks are counted at several sizes.
        timed: whose steps are timed.
        aimed: whose steps are timed by those alone for whom a time was aimed at; large ones.
        networks: whose adapters are timed, by name; each takes an image of 96 x 96 x 96.
        rounds: how often each thing is timed.
        scan: voxels along each axis of the scan that the data pipeline reads.
        samples: how many of its samples are timed.
    """

    title: str
    works: tuple[ReferenceWork, ...]
    growths: tuple[Growth, ...]
    timed: tuple[ReferenceWork, ...]
    aimed: tuple[ReferenceWork, ...]
    networks: dict[str, Callable[[], nn.Module]]
    rounds: int
    scan: int
    samples: int

    def only(self, kinds: list[str]) -> Scale:
        """Keep the networks that are named as :data:`KINDS` names them."""
        starts = tuple(KINDS[kind] for kind in kinds)
        return Scale(
            self.title,
            tuple(work for work in self.works if work.name.startswith(starts)),
            tuple(growth for growth in self.growths if growth.name.startswith(starts)),
            tuple(work for work in self.timed if work.name.startswith(starts)),
            tuple(work for work in self.aimed if work.name.startswith(starts)),
            {name: make for name, make in self.networks.items() if name.startswith(starts)},
            self.rounds,
            self.scan,
            self.samples,
        )


def full_scale() -> Scale:
    """Return the sizes of the documentation: minutes on one core; on a GPU the timed batches are larger."""
    small, large = (2, 2) if not torch.cuda.is_available() else (32, 16)
    return Scale(
        title="Benchmark",
        works=REFERENCE_WORK,
        growths=(
            Growth("ViT-B/16", lambda side: _vit_work("ViT-B/16", 1, 768, side=side), (64, 96, 128, 160)),
            Growth("SwinUNETR-48", lambda side: _swin_work("SwinUNETR-48", 48), (64, 96, 128)),
        ),
        timed=(_vit_work("ViT-S/16", small, 384), _vit_work("ViT-B/16", large, 768)),
        aimed=REFERENCE_WORK[:1],
        networks={"ViT-B/16": lambda: _vit(768, 12, 96), "UNETR-B": lambda: UNETR(1, 14, 96)},
        rounds=5,
        scan=200,
        samples=25,
    )


def quick_scale() -> Scale:
    """Return tiny networks, two rounds and a small scan."""
    vit, swin = _vit_work("ViT-tiny/16", 2, 48, layers=2), _swin_work("SwinUNETR-tiny", 12)
    return Scale(
        title="Benchmark of tiny networks, which shows that the command works and no more",
        works=(vit, swin),
        growths=(
            Growth("ViT-tiny/16", lambda side: _vit_work("ViT-tiny/16", 1, 48, layers=2, side=side), (64, 96)),
            Growth("SwinUNETR-tiny", lambda side: swin, (64, 96)),
        ),
        timed=(vit,),
        aimed=(vit,),
        networks={"ViT-tiny/16": lambda: _vit(48, 2, 96)},
        rounds=2,
        scan=48,
        samples=2,
    )


def _vit(width: int, layers: int, side: int) -> ViT:
    heads = 12 if width >= 768 else 6  # 64 channels a head in ViT-B and ViT-S
    return ViT(1, side, 16, hidden_size=width, mlp_dim=4 * width, num_layers=layers, num_heads=heads)


def _vit_work(name: str, batch: int, width: int, layers: int = 12, side: int = 96) -> ReferenceWork:
    return ReferenceWork(
        name,
        batch,
        False,
        lambda: StockSimMIM(_vit(width, layers, side), (16, 16, 16)),
        lambda method: SimMIM(encoder=adapt(_vit(width, layers, side), method)),
    )


def _swin_work(name: str, features: int) -> ReferenceWork:
    return ReferenceWork(
        f"{name}, decoder frozen",
        1,
        True,
        lambda: StockSegmentation(SwinUNETR(1, 14, feature_size=features)),
        lambda method: StockSegmentation(
            adapt(SwinUNETR(1, 14, feature_size=features), method, _DECODER if isinstance(method, FullTuning) else ())
        ),
    )
