# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A run says what it costs, and measuring it changes nothing of the run."""

from __future__ import annotations

import json

import torch
from monai.engines import SupervisedTrainer
from monai.networks.nets import ViT

from monai_essa import adapt, lean
from monai_essa.cost.meter import step_cost
from monai_essa.cost.record import CostFile
from monai_essa.engines import TrainStep, prepare_unlabelled_batch
from monai_essa.methods import APLA
from monai_essa.pretext import SimMIM


def train(handlers):
    torch.manual_seed(0)
    net = adapt(ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4), APLA())
    objective = lean(SimMIM(encoder=net))
    batches = [{"image": torch.rand(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(n))} for n in range(2)]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=batches,
        network=objective,
        optimizer=torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], fused=True),
        loss_function=None,
        prepare_batch=prepare_unlabelled_batch,
        iteration_update=TrainStep(objective),
        train_handlers=handlers(objective, net),
    )
    trainer.run()
    return objective, net


def test_the_file_holds_the_meters_cost_and_the_parts_of_the_network(tmp_path):
    path = tmp_path / "run" / "cost.json"
    objective, net = train(lambda objective, net: [CostFile(objective, net, path)])
    record = json.loads(path.read_text(encoding="utf-8"))
    cost = step_cost(objective, torch.empty(2, 1, 32, 32, 32, device="meta"))
    assert record["peak_bytes"] == cost.peak_bytes and record["forward_flops"] == cost.forward_flops
    assert record["batch"] == [[2, 1, 32, 32, 32]]
    learning = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert record["parts"]["encoder"]["trainable"] == learning
    assert record["adapter_file_bytes"] == 4 * learning


def test_a_measured_run_learns_what_an_unmeasured_run_learns(tmp_path):
    measured, _ = train(lambda objective, net: [CostFile(objective, net, tmp_path / "cost.json")])
    plain, _ = train(lambda objective, net: [])
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in measured.state_dict().items())
