# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.losses import DiceCELoss
from monai.networks.nets import UNETR

from monai_essa.engines.objectives import Supervised


def test_the_loss_is_the_mean_of_the_loss_function_on_the_prediction() -> None:
    network = nn.Conv2d(1, 1, 1)
    images, labels = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    output = Supervised(network, nn.MSELoss(reduction="none"))(images, labels)
    assert torch.equal(output["loss"], nn.functional.mse_loss(network(images), labels))


def test_the_prediction_keeps_no_graph_and_the_loss_does() -> None:
    output = Supervised(nn.Conv2d(1, 2, 1), DiceCELoss(softmax=True, to_onehot_y=True))(
        torch.rand(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    )
    assert output["pred"].grad_fn is None
    assert output["loss"].grad_fn is not None


def test_a_batch_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="needs labels, but the batch has no 'label'"):
        Supervised(nn.Conv2d(1, 1, 1), nn.MSELoss())(torch.zeros(1, 1, 4, 4), None)


def test_the_head_of_a_unetr_is_its_output_layer() -> None:
    network = UNETR(1, 2, 16, feature_size=4, hidden_size=24, mlp_dim=24, num_heads=2)
    head = Supervised(network, nn.MSELoss()).head_parameters()
    assert [id(parameter) for parameter in head] == [id(parameter) for parameter in network.out.parameters()]
