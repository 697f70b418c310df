# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""MONAI's Dice losses are measured on fake tensors like any other."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss, GeneralizedDiceLoss
from monai.networks.nets import UNETR

from monai_essa import adapt
from monai_essa.cost.meter import step_cost
from monai_essa.engines import Supervised
from monai_essa.methods import APLA


@pytest.mark.parametrize("loss", [DiceCELoss(to_onehot_y=True, softmax=True), GeneralizedDiceLoss(to_onehot_y=True)])
def test_a_step_with_a_dice_loss_has_a_cost(loss):
    objective = Supervised(adapt(UNETR(1, 2, 32, 4, 48, 96, 4), APLA()), loss)
    cost = step_cost(objective, torch.empty(1, 1, 32, 32, 32), torch.empty(1, 1, 32, 32, 32))
    assert cost.peak_bytes > cost.weight_bytes and cost.backward_flops > 0
