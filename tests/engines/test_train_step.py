# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn as nn
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import StatsHandler, from_engine
from monai.networks.nets import ViT
from monai.transforms import RandGaussianNoised

from monai_essa.data.loading.keyed import KeyedDataset, KeyedSampler
from monai_essa.engines.epochs import SamplerEpoch
from monai_essa.engines.objectives import Supervised
from monai_essa.engines.steps import TrainStep
from monai_essa.pretext import MAE, MAEDecoder, mae
from tests.forked import run_ranks


class Masked(nn.Module):
    """A pretext objective in small: dropout, and a mask from the generator that the step gives."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))
        self.masks: list[torch.Tensor] = []
        self.dropped: list[torch.Tensor] = []

    def forward(
        self, images: torch.Tensor, foreground: torch.Tensor | None, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        mask = torch.rand(images.shape, generator=generator) < 0.5
        encoded = self.encoder(images * ~mask)
        self.masks.append(mask)
        self.dropped.append(encoded.detach() == 0)
        error = (encoded - images).square()
        return {"loss": error.mean(), "masked": error[mask].mean()}


def linear_objective() -> Supervised:
    torch.manual_seed(1)
    return Supervised(nn.Linear(6, 3), nn.MSELoss())


def data(batch_size: int, total: int = 8) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    images, labels = (torch.randn(total, size, generator=generator) for size in (6, 3))
    return [
        {"image": images[start : start + batch_size], "label": labels[start : start + batch_size]}
        for start in range(0, total, batch_size)
    ]


def trainer(
    step: TrainStep, loader: list[Any], lr: float = 0.1, handlers: list[Any] | None = None
) -> SupervisedTrainer:
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=loader,
        network=step.objective,
        optimizer=torch.optim.SGD(step.objective.parameters(), lr),
        loss_function=None,
        iteration_update=step,
        train_handlers=handlers,
        decollate=False,
    )


def trained(objective: nn.Module, loader: list[Any], **arguments: Any) -> list[torch.Tensor]:
    trainer(TrainStep(objective, **arguments), loader).run()
    return [parameter.detach() for parameter in objective.parameters()]


def assert_close(ones: list[torch.Tensor], others: list[torch.Tensor], tolerance: float = 1e-6) -> None:
    for one, other in zip(ones, others, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_accumulated_batches_give_the_step_of_the_large_batch() -> None:
    small = trained(linear_objective(), data(batch_size=2), accumulation=4)
    large = trained(linear_objective(), data(batch_size=8))
    assert_close(small, large)


def test_the_last_window_of_an_epoch_is_the_mean_over_the_batches_it_has() -> None:
    small = trained(linear_objective(), data(batch_size=2, total=6), accumulation=2)
    mixed = [*data(batch_size=4, total=6)]
    assert_close(small, trained(linear_objective(), mixed))


def gradient(objective: nn.Module, batches: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Return what one window of all batches moves the parameters by, at a learning rate of 1."""
    before = [parameter.detach().clone() for parameter in objective.parameters()]
    trainer(TrainStep(objective, accumulation=len(batches)), batches, lr=1.0).run()
    return [one - other for one, other in zip(before, (p.detach() for p in objective.parameters()), strict=True)]


def test_batches_of_other_foreground_give_the_step_of_the_large_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real MAE in float64: its loss is a mean over the foreground, of which each batch has another share."""
    torch.manual_seed(0)
    network = ViT(1, 16, 4, hidden_size=24, mlp_dim=48, num_layers=2, num_heads=4, spatial_dims=2)
    objective = MAE(network, decoder=MAEDecoder(24, 1, 4)).double()
    images = torch.randn(4, 1, 16, 16, dtype=torch.float64)
    foreground = (torch.rand(4, 1, 16, 16) < torch.tensor([0.05, 0.1, 0.9, 1.0]).view(4, 1, 1, 1)).double()
    mask = mae.block_mask(4, (4, 4), 0.75, (1, 1))

    def step(sizes: list[int]) -> list[torch.Tensor]:
        parts = [list(part.split(sizes)) for part in (images, foreground, mask)]
        masks = iter(parts[2])
        monkeypatch.setattr(mae, "block_mask", lambda *_, **__: next(masks))
        batches = [{"image": image, "label": weight} for image, weight in zip(*parts[:2], strict=True)]
        return gradient(copy.deepcopy(objective), batches)

    for one, other in zip(step([4]), step([1, 2, 1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_batches_of_other_classes_give_the_step_of_the_large_batch() -> None:
    def objective() -> Supervised:
        torch.manual_seed(1)
        weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 20.0, 3.0], dtype=torch.float64))
        return Supervised(nn.Linear(6, 3).double(), weighted)

    images, labels = torch.randn(5, 6, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 2])
    small = [{"image": images[part], "label": labels[part]} for part in (slice(0, 3), slice(3, 5))]
    large = [{"image": images, "label": labels}]
    assert_close(gradient(objective(), small), gradient(objective(), large), 1e-12)


def test_a_window_without_any_weight_does_not_move() -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.ones(1))

        def forward(self, images: Any, labels: Any, generator: Any = None) -> dict[str, torch.Tensor]:
            return {"loss": self.value.sum() * 0, "weight": torch.zeros(())}

    assert gradient(Empty(), data(batch_size=4))[0].item() == 0


def test_a_window_does_not_reach_into_the_next_epoch() -> None:
    objective = linear_objective()
    engine = trainer(TrainStep(objective, accumulation=2), data(batch_size=2, total=6))
    steps: list[int] = []
    engine.optimizer.register_step_post_hook(lambda *_: steps.append(engine.state.iteration))
    engine.state.max_epochs = 2
    engine.run()
    assert steps == [2, 3, 5, 6]


def test_one_step_is_the_formula_of_gradient_descent() -> None:
    objective = linear_objective()
    expected = copy.deepcopy(objective)
    batch = data(batch_size=8)[0]
    nn.functional.mse_loss(expected.network(batch["image"]), batch["label"]).backward()
    wanted = [parameter.detach() - 0.1 * parameter.grad for parameter in expected.parameters()]  # type: ignore[operator]
    assert_close(trained(objective, [batch]), wanted)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_on_the_cpu_is_close_to_fp32_and_weights_stay_fp32(precision: str) -> None:
    full = trained(linear_objective(), data(batch_size=2))
    mixed = trained(linear_objective(), data(batch_size=2), precision=precision)
    assert all(tensor.dtype == torch.float32 for tensor in mixed)
    assert_close(full, mixed, tolerance=2e-2)
    assert not torch.equal(full[0], mixed[0])


def test_the_step_has_at_most_the_clipped_norm() -> None:
    objective = linear_objective()
    before = [parameter.detach().clone() for parameter in objective.parameters()]
    after = trained(objective, data(batch_size=8), clip_norm=1.0e-2)
    change = torch.cat([(new - old).flatten() for new, old in zip(after, before, strict=True)])
    torch.testing.assert_close(change.norm(), torch.tensor(0.1 * 1.0e-2))


def test_gradients_are_unscaled_before_they_are_clipped() -> None:
    plain = trained(linear_objective(), data(batch_size=2), clip_norm=0.5)
    objective = linear_objective()
    step = TrainStep(objective, clip_norm=0.5)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer(step, data(batch_size=2)).run()
    assert_close(plain, [parameter.detach() for parameter in objective.parameters()])


def test_no_scaler_without_cuda() -> None:
    assert not TrainStep(linear_objective(), precision="fp16").scaler.is_enabled()
    assert TrainStep(linear_objective(), precision="fp16").state_dict() == {}


def test_the_state_of_a_scaler_survives() -> None:
    step, resumed = TrainStep(linear_objective()), TrainStep(linear_objective())
    step.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    resumed.scaler = torch.amp.GradScaler("cpu")
    resumed.load_state_dict(step.state_dict())
    assert resumed.scaler.get_scale() == 512.0


def test_masks_and_dropout_depend_on_seed_and_iteration_only() -> None:
    runs = []
    for noise, seed in ((0, 0), (1, 0), (0, 1)):
        objective = Masked()
        engine = trainer(TrainStep(objective, seed=seed), data(batch_size=2), lr=0.0)
        engine.prepare_batch = lambda batch, *_, **__: (batch["image"], None)
        torch.manual_seed(noise)
        engine.run()
        runs.append((torch.stack(objective.masks), torch.stack(objective.dropped)))
    for first, again, other in zip(*runs, strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first[0], first[1])


def test_the_global_generator_is_left_alone() -> None:
    engine = trainer(TrainStep(Masked()), data(batch_size=2))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    engine.run()
    assert torch.equal(torch.rand(2), expected)


def test_events_fire_in_the_order_of_monais_trainer() -> None:
    def record(engine: SupervisedTrainer) -> list[Any]:
        seen: list[Any] = []
        for event in IterationEvents:
            engine.add_event_handler(event, lambda _, event=event: seen.append(event))
        engine.run()
        return seen

    ours = record(trainer(TrainStep(linear_objective()), data(batch_size=4)))
    network = nn.Linear(6, 3)
    theirs = SupervisedTrainer(
        "cpu", 1, data(batch_size=4), network, torch.optim.SGD(network.parameters()), nn.MSELoss()
    )
    assert ours == record(theirs)
    assert len(ours) == 8


def test_the_output_holds_images_labels_and_all_parts_without_a_graph() -> None:
    engine = trainer(TrainStep(linear_objective()), data(batch_size=4))
    engine.run()
    output = engine.state.output
    assert set(output) == {"image", "label", "loss", "pred"}
    assert not any(value.requires_grad for value in output.values())
    assert torch.equal(output["image"], data(batch_size=4)[-1]["image"])


def test_monais_decollation_and_statistics_take_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    statistics = StatsHandler(name="loss", output_transform=from_engine("loss", first=True))
    step = TrainStep(linear_objective())
    engine = trainer(step, data(batch_size=4), handlers=[statistics])
    engine._register_decollate()
    engine.run()
    assert engine.state.output[1]["loss"] == engine.state.output[0]["loss"]
    assert "Iter: 2/2 -- Loss:" in capsys.readouterr().out


def test_the_objective_gets_plain_tensors_and_the_output_keeps_the_metadata() -> None:
    seen: list[type] = []

    class Spy(nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(type(images))
            return super().forward(images)

    batch = data(batch_size=2)[0]
    engine = trainer(TrainStep(Supervised(Spy(6, 3), nn.MSELoss())), [batch | {"image": MetaTensor(batch["image"])}])
    engine.run()
    assert seen == [torch.Tensor]
    assert isinstance(engine.state.output["image"], MetaTensor)


def test_gradients_of_an_earlier_caller_do_not_leak_in_and_none_are_left() -> None:
    expected = trained(linear_objective(), data(batch_size=2))
    objective = linear_objective()
    objective(data(2)[0]["image"], data(2)[0]["label"])["loss"].backward()
    assert_close(expected, trained(objective, data(batch_size=2)))
    assert all(parameter.grad is None for parameter in objective.parameters())


def nan_batch() -> dict[str, Any]:
    image = MetaTensor(torch.full((2, 6), torch.nan), meta={"filename_or_obj": ["a.nii.gz", "b.nii.gz"]})
    return {"image": image, "label": torch.zeros(2, 3)}


def test_a_loss_that_is_not_finite_ends_the_run_in_one_line_before_the_weights_change() -> None:
    objective = linear_objective()
    engine = trainer(TrainStep(objective), [data(2)[0], nan_batch()])
    engine.state.max_epochs = 1
    before: list[torch.Tensor] = []

    @engine.on(IterationEvents.MODEL_COMPLETED)
    def keep() -> None:
        before.extend(parameter.detach().clone() for parameter in objective.parameters())

    with pytest.raises(FloatingPointError) as caught:
        engine.run()
    message = str(caught.value)
    assert "iteration 2, epoch 1" in message
    assert "['a.nii.gz', 'b.nii.gz']" in message
    assert "['image', 'label']" in message
    assert "the image holds NaN or Inf" in message
    assert "\n" not in message
    assert all(torch.equal(one, other) for one, other in zip(before, objective.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_ends_the_run_before_the_weights_change() -> None:
    class InfiniteSlope(nn.Module):
        def forward(self, prediction: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return (prediction * 0).sqrt().sum()

    objective = Supervised(nn.Linear(6, 3), InfiniteSlope())
    before = copy.deepcopy(objective.state_dict())
    with pytest.raises(FloatingPointError, match="norm of the gradients .* lower the learning rate"):
        trainer(TrainStep(objective), data(2)).run()
    assert all(torch.equal(before[name], tensor) for name, tensor in objective.state_dict().items())


@pytest.mark.parametrize("arguments", [{"precision": "half"}, {"accumulation": 0}, {"clip_norm": 0.0}])
def test_impossible_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be|at least"):
        TrainStep(linear_objective(), **arguments)


def _train_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    minutes = timedelta(minutes=5)  # to wait for a process that ended
    dist.init_process_group("gloo", f"file://{folder}/store", minutes, rank=rank, world_size=2)
    objective = linear_objective()
    parallel = nn.parallel.DistributedDataParallel(objective)
    dataset = KeyedDataset(Dataset(items(), RandGaussianNoised("image", prob=1.0)))
    loader = DataLoader(dataset, batch_size=2, sampler=KeyedSampler(8))
    trainer(TrainStep(parallel, accumulation=2), loader, handlers=[SamplerEpoch()]).run()
    torch.save([parameter.detach() for parameter in objective.parameters()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def items() -> list[dict[str, torch.Tensor]]:
    batch = data(batch_size=8)[0]
    return [{"image": image, "label": label} for image, label in zip(batch["image"], batch["label"], strict=True)]


def test_two_processes_learn_what_one_process_learns(tmp_path: Path) -> None:
    objective = linear_objective()
    dataset = KeyedDataset(Dataset(items(), RandGaussianNoised("image", prob=1.0)))
    loader = DataLoader(dataset, batch_size=4, sampler=KeyedSampler(8))
    trainer(TrainStep(objective, accumulation=2), loader, handlers=[SamplerEpoch()]).run()
    run_ranks(_train_process, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert_close([parameter.detach() for parameter in objective.parameters()], ranks[0])
    assert_close(ranks[0], ranks[1], tolerance=0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_learns_what_the_cpu_learns(precision: str) -> None:
    expected = trained(linear_objective(), data(batch_size=2), clip_norm=1.0)
    objective = linear_objective().cuda()
    step = TrainStep(objective, precision=precision, clip_norm=1.0)
    assert step.scaler.is_enabled() == (precision == "fp16")
    engine = trainer(step, data(batch_size=2))
    engine.state.device = torch.device("cuda")
    engine.run()
    assert_close(expected, [parameter.detach().cpu() for parameter in objective.parameters()], tolerance=2e-2)
