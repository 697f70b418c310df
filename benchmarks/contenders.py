# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The arms of the benchmark: our training, and rival ways to train the same tensors."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks import TransformerBlock
from torch import Tensor

from benchmarks.reference_work import ReferenceWork
from monai_essa.anatomy.lean_marks import LeanForward
from monai_essa.cost.meter import Optimizer, fused_adamw
from monai_essa.cost.table import foreach_adamw
from monai_essa.efficiency.lean import lean, recomputed
from monai_essa.methods import APLA, BitFit, LoRA
from monai_essa.methods.apla import APLALinear
from monai_essa.methods.method import AdaptationMethod

__all__ = ["COUNTED", "STOCK", "Contender", "TwoGemmLinear", "in_two_gemms", "timed_contenders"]

_ENCODER = r"encoder\.|network\.(vit|swinViT|blocks|norm|patch_embedding|cls_token)\b"
_QKV = r"(encoder|network)\.(vit\.|swinViT\.layers\d\.0\.)?blocks\.\d+\.attn\.qkv"
_METHODS: dict[str, AdaptationMethod] = {
    "APLA": APLA(),
    "APLA 25 %": APLA(columns=0.25),
    "LoRA": LoRA(targets=("q", "k", "v")),
    "BitFit": BitFit(),
}
_RECIPES: tuple[tuple[str, torch.dtype | None], ...] = (("fast", None), ("small", None), ("small", torch.bfloat16))


@dataclass(frozen=True)
class Contender:
    """A way to train.

    Attributes:
        name: what stands in the tables.
        make: makes the objective of a work.
        optimizer: makes the optimizer of the parameters that learn.
        autocast: number format of the forward pass.
    """

    name: str
    make: Callable[[ReferenceWork], nn.Module]
    optimizer: Optimizer = fused_adamw
    autocast: torch.dtype | None = None


def timed_contenders(dtype: torch.dtype | None = None) -> tuple[Contender, ...]:
    """Return those whose steps are timed, all in one number format; stock training comes first.

    Args:
        dtype: of autocast; ours then keeps frozen weights, and recomputed blocks their inputs, in it too.

    Example:
        >>> [contender.name for contender in timed_contenders()][0]
        'MONAI, full'
    """
    return (
        Contender(STOCK.name, STOCK.make, STOCK.optimizer, dtype),
        Contender(_FAIR.name, _FAIR.make, _FAIR.optimizer, dtype),
        Contender(_PEFT.name, _PEFT.make, _PEFT.optimizer, dtype),
        _ours("LoRA", "fast", dtype),
        Contender(
            "partial W_O 25 %, two products and scatter",
            lambda work: lean(in_two_gemms(work.ours(_METHODS["APLA 25 %"])), frozen_dtype=dtype),
            autocast=dtype,
        ),
        _ours("APLA 25 %", "fast", dtype),
        _ours("APLA", "fast", dtype),
        _ours("APLA", "small", dtype),
        Contender(
            "ours, APLA, plain checkpoint of each block", lambda work: _plainly_recomputed(work, dtype), autocast=dtype
        ),
    )


class TwoGemmLinear(nn.Module):
    """A linear layer split into output features that learn and output features that do not.

    Args:
        layer: gives the weights and says which output features learn; nothing is shared with it.

    Example:
        >>> layer = APLALinear(nn.Linear(4, 6), torch.tensor([0, 5]))
        >>> torch.allclose(TwoGemmLinear(layer)(torch.ones(1, 4)), layer(torch.ones(1, 4)))
        True
    """

    def __init__(self, layer: APLALinear) -> None:
        super().__init__()
        rest = torch.ones(len(layer.weight), dtype=torch.bool).index_fill(0, layer.columns.cpu(), False)
        frozen = rest.nonzero()[:, 0].to(layer.columns.device)
        self.columns: Tensor
        self.frozen_columns: Tensor
        self.register_buffer("columns", layer.columns)
        self.register_buffer("frozen_columns", frozen)
        self.rows = _copied(layer.rows, True)
        self.row_biases = None if layer.row_biases is None else _copied(layer.row_biases, True)
        self.frozen_rows = _copied(layer.weight[frozen], False)
        self.frozen_biases = None if layer.bias is None else _copied(layer.bias[frozen], False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute y = x W^T + b; x (..., in) -> (..., out)."""
        learned = F.linear(x, self.rows, self.row_biases)
        frozen = F.linear(x, self.frozen_rows, self.frozen_biases)
        y = torch.empty(
            *x.shape[:-1], len(self.columns) + len(self.frozen_columns), dtype=frozen.dtype, device=x.device
        )
        y.scatter_(-1, self.columns.expand_as(learned), learned)
        return y.scatter_(-1, self.frozen_columns.expand_as(frozen), frozen)


def in_two_gemms(module: nn.Module) -> nn.Module:
    """Put :class:`TwoGemmLinear` in the place of every partial W_O. In place; the same object is returned.

    Args:
        module: holds a network that ``APLA(columns=...)`` adapted.

    Raises:
        ValueError: if it has no partial W_O.
    """
    layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, APLALinear)}
    if not layers:
        raise ValueError("expected a network that APLA(columns=...) adapted, got one without a partial W_O")
    for path, layer in layers.items():
        module.set_submodule(path, TwoGemmLinear(layer))
    return module


def _ours(name: str, recipe: str, dtype: torch.dtype | None = None) -> Contender:
    recomputing: dict[str, Any] = {"recompute": "block", "residual_dtype": dtype} if recipe == "small" else {}
    return Contender(
        f"ours, {name}, {recipe}{' bf16' if dtype else ''}",
        lambda work: lean(work.ours(_METHODS[name]), frozen_dtype=dtype, **recomputing),
        autocast=dtype,
    )


def _peft_lora(work: ReferenceWork) -> nn.Module:
    """Let the peft package put LoRA on the encoder of the stock objective; decoder and head learn where ours do."""
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise ImportError('the benchmark needs the peft package: pip install "monai_essa[peft]"') from error
    objective = work.stock()
    peft.inject_adapter_in_model(peft.LoraConfig(r=8, lora_alpha=16, target_modules=_QKV), objective)
    for name, parameter in objective.named_parameters():
        outside = re.match(_ENCODER, name) is None and work.decoder_learns
        parameter.requires_grad_(".lora_" in name or outside)
    return objective


def _plainly_recomputed(work: ReferenceWork, dtype: torch.dtype | None) -> nn.Module:
    """Return APLA with all of each block computed again, its attention too: ``torch.utils.checkpoint`` as it is."""
    objective = lean(work.ours(_METHODS["APLA"]), frozen_dtype=dtype)
    for block in [module for module in objective.modules() if isinstance(module, TransformerBlock)]:
        LeanForward(recomputed, block).put_on()
    return objective


def _copied(tensor: Tensor, learns: bool) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=learns)


STOCK = Contender("MONAI, full", lambda work: work.stock(), foreach_adamw)
_CHECKPOINTED = Contender("MONAI, full, SDPA and checkpointing", lambda work: lean(work.stock(), recompute="block"))
_FAIR = Contender("full, SDPA, fused AdamW (fair baseline)", lambda work: work.fair())
_PEFT = Contender("peft package, LoRA", _peft_lora, foreach_adamw)
COUNTED = (
    STOCK,
    _CHECKPOINTED,
    _FAIR,
    _PEFT,
    *(_ours(name, recipe, dtype) for name in _METHODS for recipe, dtype in _RECIPES),
)
