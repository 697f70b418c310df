# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The recipe of a run (lean, precision) and its cost.json."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events

from monai_essa.adapters.summary import summary
from monai_essa.cost.meter import StepCost, step_cost
from monai_essa.devices import peak_bytes, reset_peak
from monai_essa.efficiency.lean import lean
from monai_essa.engines.steps import autocast_dtype
from monai_essa.files import write_text_whole

__all__ = ["CostFile", "cost_record", "use_recipe"]

_logger = logging.getLogger(__name__)
_RECIPES = ("none", "fast", "small")


class CostFile:
    """Handler that writes ``cost.json``: parameters of each part, bytes and operations of a step, adapter file size.

    The first batch is measured on fake tensors, so that nothing is computed and no random number is drawn. On CUDA the
    largest use of memory that was measured joins the file when the training ends.

    Args:
        objective: the objective that trains, with its lean recipe.
        network: the adapted network in it.
        path: of the file.
        precision: of the forward pass.

    Example:
        >>> from monai_essa.methods import APLA
        >>> CostFile(nn.Identity(), nn.Identity(), "run/cost.json").path.name
        'cost.json'
    """

    def __init__(self, objective: nn.Module, network: nn.Module, path: str | Path, precision: str = "fp32") -> None:
        self.objective = objective
        self.network = network
        self.path = Path(path)
        self.autocast = autocast_dtype(precision)
        self._record: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._measure)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _measure(self, engine: Any) -> None:
        if self._record or engine.state.rank != 0:
            return
        inputs = engine.prepare_batch(engine.state.batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        given = [value for value in inputs if isinstance(value, torch.Tensor)]
        cost = step_cost(self.objective, *given, autocast=self.autocast)
        self._record = {"batch": [list(value.shape) for value in given], **cost_record(cost, self.network)}
        _logger.info("a training step takes %.2f GB at most, see %s", cost.peak_bytes / 1e9, self.path.name)
        self._write()
        reset_peak(engine.state.device)

    def _finish(self, engine: Any) -> None:
        peak = peak_bytes(engine.state.device)
        if self._record and peak is not None:
            self._record["measured_peak_bytes"] = peak
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(self.path, json.dumps(self._record, indent=2) + "\n")


def cost_record(cost: StepCost, network: nn.Module) -> dict[str, Any]:
    """Return a cost as plain values, with the parameters of each part of the network and the size of its adapter file.

    Args:
        cost: of a step.
        network: the adapted network.
    """
    counts = summary(network)
    parts = {name: {"trainable": learning, "total": total} for name, (learning, total) in counts.parts.items()}
    return {**asdict(cost), "parts": parts, "adapter_file_bytes": counts.adapter_bytes}


def use_recipe(
    objective: nn.Module, recipe: str, precision: str = "fp32", device: str | torch.device | None = None
) -> nn.Module:
    """Make an objective lean by the name of a recipe. In place; the same object is returned.

    - ``"fast"``: nothing is computed twice. Fused attention, and frozen layers keep nothing that only learning needs.
    - ``"small"``: transformer blocks too are computed again in the backward pass, except for their attention. With APLA
      on a ViT-B this takes half the peak of ``fast`` for about 30 % more operations.
    - ``"none"``: MONAI's own training.

    Under autocast the frozen weights are stored in its number format, and with ``small`` the inputs of blocks as well.

    Args:
        objective: with its network adapted and its head frozen, if it is to be.
        recipe: ``"none"``, ``"fast"`` or ``"small"``.
        precision: of the forward pass: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        device: where the objective goes first, head included; default: it stays where it is.

    Raises:
        ValueError: if the recipe or the precision is unknown.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa import adapt
        >>> from monai_essa.methods import APLA
        >>> from monai_essa.pretext import SimMIM
        >>> net = adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), APLA())
        >>> objective = use_recipe(SimMIM(encoder=net), "small")
    """
    if recipe not in _RECIPES:
        raise ValueError(f"lean must be one of {', '.join(_RECIPES)}, got {recipe!r}")
    dtype = autocast_dtype(precision)
    objective = objective.to(device)
    if recipe == "none":
        return lean(objective, off=True)
    if recipe == "fast":
        return lean(objective, frozen_dtype=dtype)
    return lean(objective, recompute="block", frozen_dtype=dtype, residual_dtype=dtype)
