# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The work that our cost is measured on: four networks at the size in which they are published, and their yardsticks.

Each gives an objective with the batch that it is called with. ``stock`` is full-parameter training as MONAI does it,
``fair`` the same with all that costs nothing to switch on: fused attention, and no prediction that is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn as nn
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SwinUNETR, ViT

from monai_essa.adapters.adaptation import adapt
from monai_essa.cost.table import StockMAE, StockSegmentation, StockSimMIM
from monai_essa.efficiency.lean import lean
from monai_essa.methods import FullTuning
from monai_essa.methods.method import AdaptationMethod
from monai_essa.pretext import MAE, SimMIM
from monai_essa.pretext.mae import MAEDecoder

__all__ = ["REFERENCE_WORK", "ReferenceWork"]

_PATCH = (16, 16, 16)
_DECODER = r"(?!vit\.|swinViT\.).*"
_CLASSES = 14  # as of BTCV, the task of both papers
_MAE_DECODER = MAEDecoder(hidden_size=384, depth=4, num_heads=12)


@dataclass(frozen=True)
class ReferenceWork:
    """One kind of training step.

    Attributes:
        name: what is trained.
        batch: images of 96 x 96 x 96 in a step.
        labelled: whether a step takes labels too.
        stock: makes MONAI's full-parameter objective.
        ours: makes our objective of a network that a method adapts.
        decoder_learns: whether what lies outside the encoder learns with every method.
    """

    name: str
    batch: int
    labelled: bool
    stock: Callable[[], nn.Module]
    ours: Callable[[AdaptationMethod], nn.Module]
    decoder_learns: bool = True

    def inputs(self, batch: int | None = None) -> tuple[torch.Tensor, ...]:
        """Give what the objective is called with, on the meta device: no bytes."""
        shape = (batch or self.batch, 96, 96, 96)
        labels = (torch.empty(shape, dtype=torch.int64, device="meta"),) if self.labelled else ()
        return torch.empty(shape[0], 1, *shape[1:], device="meta"), *labels

    def fair(self) -> nn.Module:
        """Make the strongest fair baseline: every parameter learns, on fused attention and our objective."""
        return lean(self.ours(FullTuning()))


def _vit() -> ViT:
    return ViT(1, 96, 16, hidden_size=768, mlp_dim=3072)


def _stock_mae() -> StockMAE:
    width, depth, heads = _MAE_DECODER.hidden_size, _MAE_DECODER.depth, _MAE_DECODER.num_heads
    network = MaskedAutoEncoderViT(
        1,
        96,
        16,
        hidden_size=768,
        mlp_dim=3072,
        decoder_hidden_size=width,
        decoder_mlp_dim=4 * width,
        decoder_num_layers=depth,
        decoder_num_heads=heads,
    )
    return StockMAE(network, _PATCH)


def _segmentation(name: str, network: Callable[[], nn.Module], decoder_learns: bool) -> ReferenceWork:
    def ours(method: AdaptationMethod) -> nn.Module:
        everything = decoder_learns or isinstance(method, FullTuning)
        return StockSegmentation(adapt(network(), method, also_train=[_DECODER] if everything else []))

    kind = f"{name}, decoder {'trained' if decoder_learns else 'frozen'}"
    return ReferenceWork(kind, 1, True, lambda: StockSegmentation(network()), ours, decoder_learns)


REFERENCE_WORK = (
    ReferenceWork(
        "ViT-B/16, reconstruction head",
        16,
        False,
        lambda: StockSimMIM(_vit(), _PATCH),
        lambda method: SimMIM(encoder=adapt(_vit(), method)),
    ),
    ReferenceWork(
        "MAE ViT-B/16, decoder trained",
        16,
        False,
        _stock_mae,
        lambda method: MAE(encoder=adapt(_vit(), method), decoder=_MAE_DECODER),
    ),
    *(
        _segmentation(name, network, decoder_learns)
        for decoder_learns in (False, True)
        for name, network in (
            ("UNETR-B", lambda: UNETR(1, _CLASSES, 96)),
            ("SwinUNETR-48", lambda: SwinUNETR(1, _CLASSES, feature_size=48)),
        )
    ),
)
