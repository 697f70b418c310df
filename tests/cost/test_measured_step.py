# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A measured step is a real one, of a copy."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import ViT

from monai_essa import adapt
from monai_essa.cost.table import measured_step
from monai_essa.methods import APLA
from monai_essa.pretext import SimMIM


def objective():
    return SimMIM(encoder=adapt(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), APLA()))


def test_each_step_runs_forward_backward_and_optimizer_and_leaves_the_objective_alone():
    ours, steps = objective(), []

    class Counted(torch.optim.SGD):
        def step(self, closure=None):
            steps.append([group["params"][0].grad is not None for group in self.param_groups])
            return super().step(closure)

    before = copy.deepcopy(ours.state_dict())
    measured = measured_step(
        ours, torch.rand(2, 1, 32, 32, 32), optimizer=lambda trained: Counted(trained, 0.1), steps=3
    )
    assert steps == [[True]] * 4
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    parts = (measured.forward_seconds, measured.backward_seconds, measured.optimizer_seconds)
    assert all(part > 0 for part in parts) and measured.peak_bytes is None


@pytest.mark.gpu
def test_a_card_says_its_peak():
    measured = measured_step(objective().cuda(), torch.rand(2, 1, 32, 32, 32, device="cuda"), steps=1)
    assert measured.peak_bytes > 0


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="expected one step or more"):
        measured_step(nn.Linear(1, 1), torch.rand(1, 1), steps=0)
