# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Small trainings that give the same losses in one process and in several, with batches as large in all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn as nn
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.networks.nets import ViT
from monai.transforms import RandGaussianNoised
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from monai_essa import adapt
from monai_essa.cost import use_recipe
from monai_essa.data import KeyedDataset, KeyedSampler
from monai_essa.distributed.processes import process_count
from monai_essa.engines import (
    FrozenCheck,
    RunCheckpoint,
    SamplerEpoch,
    Supervised,
    TrainStep,
    parameter_groups,
    prepare_unlabelled_batch,
    steps,
)
from monai_essa.engines.views import prepare_numbered_batch, prepare_views_batch
from monai_essa.methods import APLA, LoRA
from monai_essa.methods.method import AdaptationMethod
from monai_essa.pretext import (
    DIET,
    MAE,
    Contrastive,
    DINOHead,
    DINOv2,
    DistillationSchedule,
    DistillationWeights,
    MAEDecoder,
    SimMIM,
)

SIDE = 16


@dataclass(frozen=True)
class Case:
    """A training: what learns from what, in batches of which size, with which recipe."""

    objective: Callable[[nn.Module], nn.Module]
    method: AdaptationMethod = APLA(columns=3)
    samples: int = 5
    batch_size: int = 4  # of all processes together
    accumulation: int = 1
    recipe: str = "none"
    prepare: Any = prepare_unlabelled_batch
    views: bool = False
    steps: int = 8


def _dinov2(assignment: str) -> Callable[[nn.Module], nn.Module]:
    return lambda net: DINOv2(
        net,
        DistillationSchedule(steps=20, steps_per_epoch=2),
        DINOHead(prototypes=12, hidden_size=16),
        DistillationWeights(gram=0.5),
        assignment,
    )


def _mae(net: nn.Module) -> nn.Module:
    return MAE(net, decoder=MAEDecoder(hidden_size=12, depth=1, num_heads=2))


def _segmentation(net: nn.Module) -> nn.Module:
    return Supervised(_Coloured(net), DiceCELoss(softmax=True, to_onehot_y=True))


def _simmim(net: nn.Module) -> nn.Module:
    return SimMIM(net, mask_unit=4)


def _classifier(net: nn.Module) -> nn.Module:
    return Supervised(_FirstToken(net), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2])))


CASES = {
    "mae, a last batch of one": Case(_mae, steps=20),
    "simmim, lean": Case(_simmim, samples=7, recipe="small", method=LoRA(rank=2)),
    "mae, accumulated": Case(_mae, samples=14, accumulation=2, recipe="fast"),
    "classes": Case(_classifier, samples=7, prepare=None),
    "segmentation": Case(_segmentation, samples=7, prepare=None),
    "dinov2, centring": Case(_dinov2("centring"), samples=11, batch_size=8, prepare=prepare_views_batch, views=True),
    "dinov2, sinkhorn": Case(_dinov2("sinkhorn"), samples=16, batch_size=8, prepare=prepare_views_batch, views=True),
    "contrast": Case(Contrastive, samples=12, batch_size=10, prepare=prepare_views_batch, views=True),
    "barlow": Case(
        lambda net: Contrastive(net, "barlow", projection=6),
        samples=12,
        batch_size=10,
        prepare=prepare_views_batch,
        views=True,
    ),
    "diet": Case(lambda net: DIET(net, images=7), samples=7, prepare=prepare_numbered_batch, views=True),
}


class _Coloured(nn.Module):
    """Three classes of each pixel from the token of its patch."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = nn.ConvTranspose2d(24, 3, 4, stride=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(images)[0].transpose(1, 2).unflatten(2, (4, 4)))


class _FirstToken(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = nn.Linear(24, 3)
        self.spare = nn.Linear(3, 3)  # has no gradient, so that no weight decay moves it

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(images)[0].mean(1))


def train(case: Case) -> dict[str, Any]:
    """Train and return the losses and what was learned."""
    torch.manual_seed(3)
    net = ViT(1, SIDE, 4, hidden_size=24, mlp_dim=24, num_layers=2, num_heads=2, spatial_dims=2)
    adapt(net, case.method)
    objective = use_recipe(case.objective(net), case.recipe)
    step = TrainStep(objective, clip_norm=1.0, accumulation=case.accumulation, seed=4)
    groups = parameter_groups(nn.ModuleList([objective]), lr=1.0e-2)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=case.steps,
        train_data_loader=_loader(case),
        network=objective,
        optimizer=torch.optim.SGD(groups, momentum=0.9),
        loss_function=None,
        iteration_update=step,
        train_handlers=[SamplerEpoch()],
        decollate=False,
        **({} if case.prepare is None else {"prepare_batch": case.prepare}),
    )
    losses: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output["loss"]))
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=case.steps), lambda engine: engine.terminate())
    trainer.run()
    learned = {name: tensor.detach().clone() for name, tensor in objective.named_parameters() if tensor.requires_grad}
    return {"losses": torch.tensor(losses), "buffers": dict(objective.named_buffers())} | learned


def in_one_of_two(rank: int, folder: str) -> None:
    """Run every case as one of two processes, count what travels in a step, and compare what is not alike."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        for number, case in enumerate(CASES.values()):
            torch.save(train(case), Path(folder) / f"{number}-{rank}.pt")
        wire = [_bytes_of_a_step(CASES[name]) for name in ("mae, a last batch of one", "mae, accumulated")]
        torch.save({"wire": wire, "errors": _errors_of_a_start(rank)}, Path(folder) / f"facts-{rank}.pt")
    finally:
        dist.destroy_process_group()


def _bytes_of_a_step(case: Case) -> tuple[float, int]:
    """Bytes that a process sends in an optimizer step, by each collective, and the bytes of the gradients."""
    sent: list[int] = []

    def count(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sent.append(tensor.nbytes)
        return all_reduce(tensor, *arguments, **options)

    all_reduce = dist.all_reduce
    build = steps.in_parallel

    def watched(objective: nn.Module) -> nn.parallel.DistributedDataParallel:
        parallel = build(objective)
        # torch's own sum, by a function whose calls are counted; it reads annotations of a hook, so this has none
        parallel.register_comm_hook(None, lambda _, bucket: allreduce_hook(dist.group.WORLD, bucket))
        return parallel

    with mock.patch.object(steps, "in_parallel", watched), mock.patch.object(dist, "all_reduce", count):
        learned = train(case)
    gradients = sum(tensor.nbytes for name, tensor in learned.items() if name not in ("losses", "buffers"))
    used = 4 * (len(learned) - 2)  # DistributedDataParallel counts in which process a tensor had a gradient
    return sum(sent) * case.accumulation / case.steps + used, gradients


def _errors_of_a_start(rank: int) -> list[str]:
    """What a run says whose processes have another base, other trainable tensors, or another configuration."""
    torch.manual_seed(rank)
    layer, errors = nn.Linear(2, 2), []
    engine = Engine(lambda engine, batch: None)
    engine.state.rank, engine.state.epoch_length = rank, 1
    same = nn.Linear(2, 2, bias=False)
    nn.init.ones_(same.weight)
    for start in (
        FrozenCheck(layer.requires_grad_(False)).start,
        lambda: RunCheckpoint("none", nn.Linear(2, 2), {}, "one")._start(engine),
        lambda: RunCheckpoint("none", same, {}, f"number {rank}")._start(engine),
    ):
        try:
            start()
        except RuntimeError as error:
            errors.append(str(error))
    return errors


def _loader(case: Case) -> DataLoader:
    keyed = KeyedDataset(Dataset(_items(case), RandGaussianNoised("image", prob=1.0, std=0.05)), 1)
    own = case.batch_size // process_count()
    sampler = KeyedSampler(case.samples, 1, whole_batches_of=own if case.views else None)
    return DataLoader(keyed, batch_size=own, sampler=sampler)


def _items(case: Case) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(2)
    shape = (2, 1, SIDE, SIDE) if case.views else (1, SIDE, SIDE)
    return [
        {
            "image": torch.rand(shape, generator=generator),
            "foreground": (torch.rand(1, SIDE, SIDE, generator=generator) > 0.1 * number).float(),
            "patient": number,
            "number": number,
        }
        | ({} if case.prepare else {"label": _label(case, number, generator)})
        for number in range(case.samples)
    ]


def _label(case: Case, number: int, generator: torch.Generator) -> Any:
    if case.objective is _segmentation:
        return torch.randint(3, (1, SIDE, SIDE), generator=generator)
    return number % 3
