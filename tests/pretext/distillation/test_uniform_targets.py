# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""When targets become uniform: where two views of a scan agree too little, whatever is right in the code.

The encoder is left out. Views are vectors whose correlation is known, and head, teacher, centre and loss are ours.
"""

from __future__ import annotations

import math

import pytest
import torch

from monai_essa.pretext.distillation import DINOHead, image_token_loss
from monai_essa.pretext.distillation.assignment import Centring
from monai_essa.pretext.distillation.head import PrototypeHead
from monai_essa.pretext.distillation.teacher import AveragedTensors

PROTOTYPES, WIDTH, SCANS, BATCH, STEPS = 64, 16, 500, 32, 600


def entropy_at_the_end(correlation: float, temperature: float) -> float:
    """Return the entropy of the teacher's targets in the last fifty steps, as a share of that of uniform ones."""
    torch.manual_seed(0)
    head = PrototypeHead(WIDTH, DINOHead(PROTOTYPES, hidden_size=32, bottleneck=16))
    teacher, centring = AveragedTensors(head), Centring(PROTOTYPES)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-5)
    scans, entropies = torch.randn(SCANS, WIDTH), []
    for step in range(STEPS):
        shared = math.sqrt(correlation) * scans[torch.randint(SCANS, (BATCH,))]
        views = [shared + math.sqrt(1 - correlation) * torch.randn(BATCH, WIDTH) for _ in range(2)]
        targets = torch.stack([centring(teacher.run(head, view), torch.tensor(temperature)) for view in views])
        loss = image_token_loss(torch.stack([head(view) for view in views]), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.follow(head, torch.tensor(1 - 0.05 * (1 + math.cos(math.pi * step / STEPS))))  # from 0.9 to 1
        centring.after_step()
        entropies.append(float(torch.special.entr(targets).sum(-1).mean()))
    return sum(entropies[-50:]) / 50 / math.log(PROTOTYPES)


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.04, 0.07])
def test_targets_become_uniform_where_two_views_agree_too_little(temperature: float):
    """Below a correlation of about temperature / 0.1 a difference between scans shrinks with each generation."""
    assert entropy_at_the_end(0.3, temperature) > 0.95
    assert entropy_at_the_end(0.95, temperature) < 0.5
