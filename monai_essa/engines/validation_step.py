# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The validation step of a pretext objective: its loss with the same masks each time, so that epochs compare."""

from __future__ import annotations

from typing import Any

import torch.nn as nn
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys

from monai_essa.engines.keyed_rng import keyed_rng
from monai_essa.engines.precision import PRECISIONS, autocast_to

__all__ = ["ValidationStep"]


class ValidationStep:
    """Compute an objective on unlabelled validation batches; the ``iteration_update`` of a ``SupervisedEvaluator``.

    The masks of a batch are keyed by (seed, "validation", number of the batch): the same in each epoch and each run, so
    a lower loss is a better network and not an easier mask. With ``prepare_batch=prepare_unlabelled_batch`` no label
    has a part in choosing the best checkpoint.

    Args:
        objective: a pretext objective, on its device.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        seed: the seed of the run.

    Raises:
        ValueError: if the precision is unknown.

    Example:
        >>> import ignite.metrics
        >>> import torch
        >>> from monai.engines import SupervisedEvaluator
        >>> from monai.handlers import from_engine
        >>> class Masked(nn.Module):
        ...     def forward(self, images, foreground=None, generator=None):
        ...         return {"loss": torch.rand(1, generator=generator).mean()}
        >>> evaluator = SupervisedEvaluator(
        ...     device=torch.device("cpu"), val_data_loader=[{"image": torch.zeros(1, 1, 8, 8)}], network=Masked(),
        ...     iteration_update=ValidationStep(Masked()),
        ...     key_val_metric={"val_loss": ignite.metrics.Average(from_engine("loss", first=True))},
        ... )
        >>> evaluator.run(1); first = evaluator.state.metrics["val_loss"]
        >>> evaluator.run(2); evaluator.state.metrics["val_loss"] == first
        True
    """

    def __init__(self, objective: nn.Module, precision: str = "fp32", seed: int = 0) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.objective = objective
        self.precision = precision
        self.seed = seed

    def __call__(self, engine: Any, batch: Any) -> dict[str, Any]:
        """Run the step; called by the evaluator.

        Args:
            engine: the evaluator.
            batch: what its data loader gave.

        Returns:
            ``engine.state.output``: the image and every entry of the objective's dictionary.
        """
        device = engine.state.device
        inputs = engine.prepare_batch(batch, device, engine.non_blocking, **engine.to_kwargs)
        engine.state.output = {Keys.IMAGE: inputs[0]}
        plain = [value.as_tensor() if isinstance(value, MetaTensor) else value for value in inputs]
        with (
            engine.mode(self.objective),
            keyed_rng(device, self.seed, "validation", engine.state.iteration) as generator,
            autocast_to(self.precision, device),
        ):
            engine.state.output.update(self.objective(*plain, generator=generator))
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
