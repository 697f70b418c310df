# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""How fast each tensor learns: the parameter groups of an optimizer, and the schedule of its rates."""

from __future__ import annotations

from typing import Any

import torch.nn as nn
from monai.optimizers import WarmupCosineSchedule
from torch.optim import Optimizer

__all__ = ["parameter_groups", "warmup_cosine"]

# Embeddings and tokens are values, not weights of a linear map: decay would pull them to zero.
_NO_DECAY = frozenset(
    {"cls_token", "mask_token", "mask_tokens", "position_embeddings", "prompts", "relative_position_bias_table"}
)


def parameter_groups(
    objective: nn.Module, lr: float, weight_decay: float = 0.05, head_lr_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Sort the trainable tensors of an objective into groups for ``torch.optim.AdamW``.

    Biases, norms (all 1-D tensors), tokens and position embeddings do not decay, as in the authors' code of MAE (He et
    al., CVPR 2022), SimMIM (Xie et al., CVPR 2022) and ESSA; nor do VPT's prompts, which are tokens. Frozen tensors are
    in no group, so they get no state.

    Args:
        objective: a pretext or supervised objective, or a network. Its ``head_parameters()``, if it has them, are the
            head.
        lr: learning rate.
        weight_decay: decay of the other tensors; the default is that of MAE and SimMIM pre-training.
        head_lr_factor: the head learns at ``lr * head_lr_factor``.

    Returns:
        One dictionary for each non-empty group: ``params``, ``lr``, ``weight_decay``.

    Raises:
        ValueError: if no tensor is trainable.

    Example:
        >>> [(len(group["params"]), group["weight_decay"]) for group in parameter_groups(nn.Linear(2, 2), lr=1.0e-3)]
        [(1, 0.05), (1, 0.0)]
    """
    head = {id(parameter) for parameter in _head_parameters(objective)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and name.rpartition(".")[2] not in _NO_DECAY
        rates = (lr * head_lr_factor if id(parameter) in head else lr, weight_decay if decays else 0.0)
        groups.setdefault(rates, []).append(parameter)
    if not groups:
        raise ValueError(
            f"{type(objective).__name__} has no trainable tensor, so there is nothing to optimise: "
            "adapt the network with a method that trains something, or name its head or decoder in also_train"
        )
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def warmup_cosine(optimizer: Optimizer, warmup: float, total_steps: int) -> WarmupCosineSchedule:
    """Make MONAI's schedule that raises the rates linearly and lowers them along a cosine, with a share for the rise.

    Args:
        optimizer: whose rates are scheduled.
        warmup: share of all steps in which the rates rise, from 0 to 1.
        total_steps: of the run.

    Example:
        >>> import torch
        >>> warmup_cosine(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), 0.05, total_steps=200).warmup_steps
        10
    """
    return WarmupCosineSchedule(optimizer, warmup_steps=int(warmup * total_steps), t_total=total_steps)


def _head_parameters(objective: nn.Module) -> list[nn.Parameter]:
    head_parameters = getattr(objective, "head_parameters", None)
    return head_parameters() if callable(head_parameters) else []
