# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A collapsed run stops with the reason; a healthy one does not, and a resumed one compares with the same start."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn as nn
from monai.data import Dataset
from monai.engines import SupervisedTrainer
from monai.networks.nets import ViT
from monai.transforms import Compose

from monai_essa.data import KeyedDataset
from monai_essa.engines import TrainStep
from monai_essa.engines.views import CollapseAlarm, feature_rank, patch_tokens
from monai_essa.pretext import DINOHead, DINOv2, DistillationSchedule, DistillationWeights

HEAD = DINOHead(prototypes=64, hidden_size=24, bottleneck=32)


def objective(temperature: tuple[float, float] = (0.04, 0.07)) -> DINOv2:
    torch.manual_seed(0)
    net = ViT(1, 16, 4, 24, 32, 2, 2, spatial_dims=2)
    schedule = DistillationSchedule(steps=12, temperature=temperature)
    return DINOv2(net, schedule, HEAD, DistillationWeights(ibot=0.0, koleo=0.0))


def held_out(images: int = 4) -> KeyedDataset:
    generator = torch.Generator().manual_seed(1)
    items = [{"image": torch.rand(2, 1, 16, 16, generator=generator)} for _ in range(images)]
    return KeyedDataset(Dataset(items, Compose([])))


def trained(learner: DINOv2, alarm: CollapseAlarm, epochs: int = 2, lr: float = 1e-3) -> None:
    step = TrainStep(learner)
    batches = [torch.rand(4, 2, 1, 16, 16, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=batches,
        prepare_batch=lambda batch, *_, **__: (batch,),
        network=learner,
        optimizer=torch.optim.AdamW(learner.parameters(), lr=lr),
        loss_function=None,
        iteration_update=step,
        train_handlers=[alarm],
        decollate=False,
    ).run()


def test_a_healthy_run_goes_on():
    learner = objective()
    alarm = CollapseAlarm(learner, held_out())
    trained(learner, alarm)
    assert alarm.first_rank and alarm.first_rank > 2


def test_a_run_without_centring_at_temperature_one_stops_with_the_reason():
    learner = objective(temperature=(1.0, 1.0))
    learner.image_targets.momentum = 1.0  # the centre stays at 0
    alarm = CollapseAlarm(learner, held_out())
    with pytest.raises(RuntimeError, match=r"within 1 % of ln\(64\) = 4.159: .* smaller temperature for the teacher"):
        trained(learner, alarm, epochs=20, lr=1e-2)
    assert alarm.state_dict()["uniform_epochs"] == 3


def test_features_that_lose_their_rank_stop_the_run():
    learner = objective()
    alarm = CollapseAlarm(learner, held_out())
    engine: Any = SimpleNamespace(state=SimpleNamespace(device="cpu", epoch=3, iteration=1, output={}))
    alarm._start(engine)
    alarm._check(engine)
    with torch.no_grad():
        learner.encoder.norm.weight[2:] = 0  # two features are left of 24
        learner.encoder.norm.bias.zero_()
    with pytest.raises(RuntimeError, match="collapsed in epoch 3: their rank is .* below a quarter of the .* lower lr"):
        alarm._check(engine)


def test_a_resumed_alarm_compares_with_the_first_start():
    learner = objective()
    alarm = CollapseAlarm(learner, held_out())
    alarm.load_state_dict({"first_rank": 1000.0, "sums": (0.0, 0.0), "count": 0, "uniform_epochs": 0})
    with pytest.raises(RuntimeError, match="below a quarter of the 1000.0 before"):
        trained(learner, alarm, epochs=1)
    assert alarm.state_dict()["first_rank"] == 1000.0


def test_the_rank_is_the_exponential_of_an_entropy():
    tokens = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.eigvalsh(tokens.T @ tokens).sqrt()
    shares = values / values.sum()
    assert feature_rank(tokens) == pytest.approx(math.exp(-float((shares * shares.log()).sum())), rel=1e-5)
    assert feature_rank(tokens[:, :1] @ torch.ones(1, 6, dtype=torch.float64)) == pytest.approx(1, abs=1e-3)


def test_the_tokens_are_those_of_the_same_patches_and_leave_the_network_as_it_is():
    net = ViT(1, 16, 4, 24, 32, 2, 2, spatial_dims=2, dropout_rate=0.5).train()
    crops = [held_out()[0, number]["image"] for number in range(4)]
    one, again = (patch_tokens(net, crops, 100, "cpu") for _ in range(2))
    assert one.shape == (100, 24) and torch.equal(one, again) and net.training


def test_few_images_give_more_views_until_there_are_a_thousand_tokens(caplog: pytest.LogCaptureFixture):
    turns: list[tuple[int, int]] = []

    class Counted:
        def __init__(self, images: int) -> None:
            self.images = images

        def __len__(self) -> int:
            return self.images

        def __getitem__(self, at: tuple[int, int]) -> dict[str, torch.Tensor]:
            turns.append(at)
            return {"image": torch.rand(2, 1, 16, 16)}  # 32 tokens

    engine: Any = SimpleNamespace(state=SimpleNamespace(device="cpu"))
    alarm = CollapseAlarm(objective(), Counted(9))
    alarm._start(engine)
    assert len(turns) == 36 and {turn for turn, _ in turns} == {0, 1, 2, 3} and not caplog.records  # 1,152 tokens
    turns.clear()
    CollapseAlarm(objective(), Counted(200))._start(engine)
    assert [number for _, number in turns] == list(range(0, 192, 3))
    CollapseAlarm(objective(), Counted(1))._start(engine)
    assert "compares 256 patch tokens, all that the held-out scans have" in caplog.text


def test_no_held_out_image_is_refused():
    with pytest.raises(ValueError, match="lower hold_out"):
        CollapseAlarm(nn.Identity(), [])
