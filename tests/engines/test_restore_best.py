# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Ending with the best epoch."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from ignite.engine import Engine
from monai.networks.nets import ViT

from monai_essa import adapt, disable_adapter
from monai_essa.engines import RestoreBest
from monai_essa.methods import APLA


def test_best_weights_come_back_and_the_base_is_kept(tmp_path):
    net = adapt(ViT(1, 32, 16, 24, 48, 1, 4, spatial_dims=2), APLA())
    weight = net.blocks[0].attn.out_proj.weight
    base = weight.detach().clone()
    weight.data.add_(1)
    torch.save(net.state_dict(), tmp_path / "best.pt")
    weight.data.add_(1)
    trainer = Engine(lambda engine, batch: None)
    RestoreBest(net, tmp_path / "best.pt").attach(trainer)
    trainer.run([0], max_epochs=1)
    assert torch.equal(weight, base + 1)
    with disable_adapter(net):
        assert torch.equal(weight, base)


def test_a_run_without_validation_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no best checkpoint at .*best.pt; set val_interval"):
        RestoreBest(nn.Linear(1, 1), tmp_path / "best.pt")(Engine(lambda engine, batch: None))
