# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Who is compared: MONAI's training, the same with all that costs nothing, the peft package, and ours."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from monai.networks.blocks import TransformerBlock

from monai_essa.efficiency.lean import lean
from monai_essa.efficiency.recompute import recomputed
from monai_essa.efficiency.reference_work import ReferenceWork
from monai_essa.efficiency.step_cost import Optimizer, fused_adamw
from monai_essa.efficiency.stock_objectives import foreach_adamw
from monai_essa.efficiency.two_gemm import in_two_gemms
from monai_essa.lean_marks import LeanForward
from monai_essa.methods import APLA, BitFit, LoRA
from monai_essa.methods.method import AdaptationMethod

__all__ = ["COUNTED", "STOCK", "Contender", "timed_contenders"]

_ENCODER = r"encoder\.|network\.(vit|swinViT|blocks|norm|patch_embedding|cls_token)\b"
_QKV = r"(encoder|network)\.(vit\.|swinViT\.layers\d\.0\.)?blocks\.\d+\.attn\.qkv"


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
    """Give those whose steps are timed, all in one number format; stock training comes first.

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
    """Give APLA with all of each block computed again, its attention too: ``torch.utils.checkpoint`` as it is."""
    objective = lean(work.ours(_METHODS["APLA"]), frozen_dtype=dtype)
    for block in [module for module in objective.modules() if isinstance(module, TransformerBlock)]:
        LeanForward(recomputed, block).put_on()
    return objective


STOCK = Contender("MONAI, full", lambda work: work.stock(), foreach_adamw)
_CHECKPOINTED = Contender("MONAI, full, SDPA and checkpointing", lambda work: lean(work.stock(), recompute="block"))
_FAIR = Contender("full, SDPA, fused AdamW (fair baseline)", lambda work: work.fair())
_PEFT = Contender("peft package, LoRA", _peft_lora, foreach_adamw)
_METHODS: dict[str, AdaptationMethod] = {
    "APLA": APLA(),
    "APLA 25 %": APLA(columns=0.25),
    "LoRA": LoRA(targets=("q", "k", "v")),
    "BitFit": BitFit(),
}
_RECIPES: tuple[tuple[str, torch.dtype | None], ...] = (("fast", None), ("small", None), ("small", torch.bfloat16))

COUNTED = (
    STOCK,
    _CHECKPOINTED,
    _FAIR,
    _PEFT,
    *(_ours(name, recipe, dtype) for name in _METHODS for recipe, dtype in _RECIPES),
)
