# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.engines import SupervisedTrainer

from monai_essa.engines import Supervised, TrainStep
from monai_essa.engines.steps import autocast_to


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_linear_layer_computes_in_the_format_that_was_asked_for(precision: str, dtype: torch.dtype) -> None:
    with autocast_to(precision, torch.device("cpu")):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


@pytest.mark.filterwarnings("error")
def test_no_autocast_gives_no_warning() -> None:
    autocast_to("fp32", torch.device("cpu"))


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16, got 'float16'"):
        autocast_to("float16", torch.device("cpu"))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_on_the_cpu_learns_in_each_precision_and_keeps_fp32_weights(precision: str) -> None:
    learned = trained_weight(precision, "cpu")
    assert learned.dtype == torch.float32
    assert learned.item() == pytest.approx(trained_weight("fp32", "cpu").item(), abs=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_fp16_on_cuda_scales_the_loss_and_learns_as_fp32() -> None:
    assert trained_weight("fp16", "cuda").item() == pytest.approx(trained_weight("fp32", "cuda").item(), abs=2e-2)


def test_fp16_scales_the_loss_and_skips_a_step_that_overflows() -> None:
    """Loss scaling is for CUDA; here a scaler of the CPU stands in its place."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert trained_weight("fp16", "cpu", scaler).item() == pytest.approx(trained_weight("fp32", "cpu").item(), abs=2e-2)
    assert scaler.get_scale() == 2.0**10
    overflowing = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    assert trained_weight("fp16", "cpu", overflowing).item() == 0.5  # as it began
    assert overflowing.get_scale() < 2.0**127


def trained_weight(precision: str, device: str, scaler: torch.amp.GradScaler | None = None) -> torch.Tensor:
    """Take two steps with one weight, which begins at 0.5, and return it."""
    network = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(network.weight, 0.5)
    objective = Supervised(network.to(device), nn.MSELoss())
    step = TrainStep(objective, precision, clip_norm=10.0)
    assert step.scaler.is_enabled() == (precision == "fp16" and device == "cuda")
    step.scaler = scaler or step.scaler
    trainer = SupervisedTrainer(
        device=torch.device(device),
        max_epochs=2,
        train_data_loader=[{"image": torch.full((1, 1, 4, 4), 1.5), "label": torch.ones(1, 1, 4, 4)}],
        network=objective,
        optimizer=torch.optim.SGD(objective.parameters(), 0.1),
        loss_function=None,
        iteration_update=step,
    )
    trainer.run()
    return network.weight.detach().cpu()
