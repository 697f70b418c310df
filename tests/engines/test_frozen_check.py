# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.engines import SupervisedTrainer

from monai_essa.engines.objectives import Supervised
from monai_essa.engines.parameters import FrozenCheck, frozen_tensors
from monai_essa.engines.steps import TrainStep


def network() -> nn.Sequential:
    frozen = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).requires_grad_(False)
    return nn.Sequential(frozen, nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))


def train(objective: nn.Module, check: FrozenCheck) -> None:
    batch = {"image": torch.rand(2, 1, 4, 4), "label": torch.rand(2, 2, 4, 4)}
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[batch, batch],
        network=objective,
        optimizer=torch.optim.AdamW(objective.parameters(), 0.1),
        loss_function=None,
        iteration_update=TrainStep(objective),
        train_handlers=[check],
    ).run()


def test_frozen_are_parameters_without_gradient_and_statistics_of_frozen_layers() -> None:
    statistics = {"0.1.running_mean", "0.1.running_var", "0.1.num_batches_tracked"}
    assert set(frozen_tensors(network())) == {"0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"} | statistics


def test_a_run_that_leaves_frozen_layers_alone_passes() -> None:
    net = network()
    net[0].forward = nn.Sequential.forward.__get__(net[0].eval())
    net[0].train = lambda mode=True: net[0]
    before = {name: tensor.clone() for name, tensor in net.named_parameters()}
    train(Supervised(net, nn.MSELoss()), FrozenCheck(net))
    assert not torch.equal(before["1.weight"], net[1].weight)


def test_statistics_that_drift_end_the_run_in_one_line() -> None:
    net = network()
    with pytest.raises(RuntimeError) as caught:
        train(Supervised(net, nn.MSELoss()), FrozenCheck(net))
    message = "3 frozen tensors changed during training (0.1.running_mean, 0.1.running_var, 0.1.num_batches_tracked): "
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_bit_is_noticed(dtype: torch.dtype) -> None:
    net = nn.Linear(3, 3).to(dtype).requires_grad_(False)
    check = FrozenCheck(net)
    check.start()
    net.weight.view(torch.uint8)[0, 0] ^= 1
    with pytest.raises(RuntimeError, match=r"1 frozen tensors changed during training \(weight\)"):
        check.compare()


def test_a_tensor_that_was_thawed_is_noticed() -> None:
    net = nn.Linear(3, 3).requires_grad_(False)
    check = FrozenCheck(net)
    check.start()
    net.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"2 frozen tensors changed during training \(weight, bias\)"):
        check.compare()
