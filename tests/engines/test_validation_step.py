# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import ignite.metrics
import pytest
import torch
import torch.nn as nn
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine

from monai_essa.engines.objectives import prepare_unlabelled_batch
from monai_essa.engines.steps import ValidationStep


class Masked(nn.Module):
    """Loss of a masked reconstruction, with dropout that an evaluation must not use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
        self.masks: list[torch.Tensor] = []
        self.foregrounds: list[torch.Tensor | None] = []

    def forward(
        self, images: torch.Tensor, foreground: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        mask = torch.rand(images.shape, generator=generator) < 0.5
        self.masks.append(mask)
        self.foregrounds.append(foreground)
        return {"loss": (self.encoder(images * ~mask) - images).square().mean()}


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.rand(2, 4, generator=generator), "label": torch.ones(2, 4)} for _ in range(3)]


def evaluator(objective: nn.Module, **arguments: Any) -> SupervisedEvaluator:
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches(),
        network=objective,
        prepare_batch=prepare_unlabelled_batch,
        iteration_update=ValidationStep(objective, **arguments),
        key_val_metric={"val_loss": ignite.metrics.Average(from_engine("loss", first=True))},
        metric_cmp_fn=lambda current, best: current < best,
    )


def validate(engine: SupervisedEvaluator, epoch: int) -> float:
    engine.run(epoch)
    return engine.state.metrics["val_loss"]


def test_an_unchanged_objective_has_the_same_loss_in_each_epoch_and_run() -> None:
    engine = evaluator(Masked())
    losses = [validate(engine, 1), validate(engine, 2)]
    torch.manual_seed(9)
    losses.append(validate(evaluator(Masked()), 7))
    assert losses[0] == losses[1] == losses[2]


def test_the_metric_is_the_mean_over_the_batches_in_eval_mode() -> None:
    objective = Masked()
    value = validate(evaluator(objective), 1)
    objective.eval()
    images = [batch["image"] for batch in batches()]
    errors = [
        (objective.encoder(image * ~mask) - image).square().mean().item()
        for image, mask in zip(images, objective.masks, strict=True)
    ]
    assert value == pytest.approx(sum(errors) / 3)


def test_masks_differ_between_batches_and_seeds() -> None:
    one, other = Masked(), Masked()
    validate(evaluator(one), 1)
    validate(evaluator(other, seed=1), 1)
    assert not torch.equal(one.masks[0], one.masks[1])
    assert not torch.equal(one.masks[0], other.masks[0])


def test_labels_do_not_reach_the_objective() -> None:
    objective = Masked()
    validate(evaluator(objective), 1)
    assert objective.foregrounds == [None, None, None]


def test_the_objective_goes_back_to_training_and_has_no_gradients() -> None:
    objective = Masked()
    validate(evaluator(objective), 1)
    assert objective.training
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_bf16_is_close_to_fp32() -> None:
    assert validate(evaluator(Masked(), precision="bf16"), 1) == pytest.approx(
        validate(evaluator(Masked()), 1), rel=2e-2
    )


def test_the_lowest_loss_is_the_best() -> None:
    objective = Masked()
    engine = evaluator(objective)
    first = validate(engine, 1)
    with torch.no_grad():
        objective.encoder[0].weight.mul_(10)
    assert validate(engine, 2) > first
    assert (engine.state.best_metric, engine.state.best_metric_epoch) == (first, 1)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of"):
        ValidationStep(Masked(), precision="int8")
