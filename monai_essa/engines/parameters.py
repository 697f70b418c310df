# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Groups of parameters for the optimizer, and the check that the frozen ones stayed as they were."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from monai.optimizers import WarmupCosineSchedule
from torch.optim import Optimizer

from monai_essa.adapters.identity import sha256_of
from monai_essa.anatomy.tensor_names import is_token_or_position, layer_depths
from monai_essa.distributed.processes import check_alike
from monai_essa.files import json_sha256
from monai_essa.outside import Number

__all__ = ["FrozenCheck", "frozen_tensors", "parameter_groups", "warmup_cosine"]


def parameter_groups(
    objective: nn.Module, lr: float, weight_decay: float = 0.05, head_lr_factor: float = 1.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    r"""Sort the trainable tensors of an objective into groups for ``torch.optim.AdamW``.

    Biases, norms (all 1-D tensors), tokens and position embeddings do not decay, as in the authors' code of MAE (He et
    al., CVPR 2022), SimMIM (Xie et al., CVPR 2022) and ESSA; nor do VPT's prompts, which are tokens. Frozen tensors are
    in no group, so they get no state.

    With a layer decay :math:`\gamma` a tensor of depth d learns at

    .. math:: \eta_d = \eta \, \gamma^{\, n + 1 - d}

    so that the early layers of an encoder of n blocks stay closer to what was pretrained, and what follows the encoder
    learns at the full rate (Clark et al., ICLR 2020, for ELECTRA; BEiT and MAE for a ViT).
    :func:`~monai_essa.anatomy.tensor_names.layer_depths` says which depth a tensor has.

    Args:
        objective: a pretext or supervised objective, or a network. Its ``head_parameters()``, if it has them, are the
            head.
        lr: learning rate.
        weight_decay: decay of the other tensors; the default is that of MAE and SimMIM pre-training.
        head_lr_factor: the head learns at ``lr * head_lr_factor``.
        layer_decay: :math:`\gamma`, above 0 and up to 1; 1: one rate for all depths.

    Returns:
        One dictionary for each non-empty group: ``params``, ``lr``, ``weight_decay``.

    Raises:
        ValueError: if no tensor is trainable, or ``layer_decay`` is out of its range.

    Example:
        >>> [(len(group["params"]), group["weight_decay"]) for group in parameter_groups(nn.Linear(2, 2), lr=1.0e-3)]
        [(1, 0.05), (1, 0.0)]
    """
    head = {id(parameter) for parameter in _head_parameters(objective)}
    shares = _rate_shares(objective, layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and not _is_value(name)
        rate = (lr * head_lr_factor if id(parameter) in head else lr) * shares.get(id(parameter), 1.0)
        rates = (rate, weight_decay if decays else 0.0)
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


def frozen_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """List the tensors that training must leave alone, by name.

    These are the parameters without ``requires_grad``, and the buffers (running statistics) of layers that have
    parameters of which none is trainable.

    Args:
        network: the network that is trained, adapted or plain.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2).requires_grad_(False))
        >>> sorted(frozen_tensors(network))
        ['1.bias', '1.num_batches_tracked', '1.running_mean', '1.running_var', '1.weight']
    """
    tensors: dict[str, torch.Tensor] = {
        name: tensor for name, tensor in network.named_parameters() if not tensor.requires_grad
    }
    for path, module in network.named_modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            prefix = f"{path}." if path else ""
            tensors |= {f"{prefix}{name}": buffer for name, buffer in module.named_buffers(recurse=False)}
    return tensors


class FrozenCheck:
    """Handler of the trainer that compares the frozen tensors of a network at the start and at the end of a run.

    It keeps a sha256 of each tensor and no copies. List it before the handlers that write results.

    Args:
        network: the network that is trained.

    Example:
        >>> check = FrozenCheck(nn.Linear(2, 2).requires_grad_(False))
        >>> check.start()
        >>> check.compare()
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._before: dict[str, str] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self.compare)

    def start(self) -> None:
        """Take the digests that :meth:`compare` compares with.

        Raises:
            RuntimeError: if another process of a distributed run has other frozen tensors.
        """
        self._before = self._digests()
        check_alike(base=json_sha256(self._before))

    def compare(self) -> None:
        """Compare with the digests taken at the start.

        Raises:
            RuntimeError: if a tensor has changed, or is no longer frozen.
        """
        after = self._digests()
        changed = [name for name, digest in self._before.items() if after.get(name) != digest]
        if changed:
            shown = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
            raise RuntimeError(
                f"{len(changed)} frozen tensors changed during training ({shown}): "
                "keep them out of the optimizer, and normalisation layers in eval mode, or list them in also_train"
            )

    def _digests(self) -> dict[str, str]:
        return {name: sha256_of(tensor) for name, tensor in frozen_tensors(self.network).items()}


def _head_parameters(objective: nn.Module) -> list[nn.Parameter]:
    head_parameters = getattr(objective, "head_parameters", None)
    return head_parameters() if callable(head_parameters) else []


def _rate_shares(objective: nn.Module, layer_decay: float) -> dict[int, float]:
    """Return the share of the learning rate that each tensor of the network has; empty if all have the whole."""
    if not 0 < Number(0, 1).check(layer_decay, "layer_decay"):
        raise ValueError("layer_decay: expected a number above 0, got 0; 1.0 gives all layers one learning rate")
    if layer_decay == 1:
        return {}
    network = getattr(objective, "network", objective)
    depths = layer_depths(network)
    top = max(depths.values())
    return {id(tensor): layer_decay ** (top - depths[name]) for name, tensor in network.named_parameters()}


def _is_value(name: str) -> bool:
    """Tell whether a tensor holds embeddings or tokens, which decay would pull to zero, and not weights of a layer."""
    return is_token_or_position(name) or name.rpartition(".")[2] == "prompts"
