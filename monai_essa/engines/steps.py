# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One training step and one validation step for all stages: precision, accumulation, keyed randomness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch.nn.parallel import DistributedDataParallel

from monai_essa.anatomy.parts import unwrapped
from monai_essa.data.loading.keyed import key
from monai_essa.devices import default_device, gpus_among, is_gpu
from monai_essa.distributed.processes import in_several_processes, process_count
from monai_essa.distributed.shares import BatchShare, in_parallel, own_rows, shared_means, sharing
from monai_essa.pretext.masked_prediction import plain_tensor

__all__ = ["TrainStep", "ValidationStep", "autocast_dtype", "autocast_to", "default_precision", "keyed_rng"]

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainStep:
    """Forward, backward and, at the end of an accumulation window, one optimizer step.

    The trainer's inferer calls the objective, by default as ``objective(*prepare_batch(batch), generator=generator)``.
    The objective returns a dictionary with the scalar ``"loss"``, the ``"weight"`` that its mean was divided by where
    that is not the number of images, and any parts. Give the trainer the objective as its network.

    - Masks (the generator) and dropout (torch's global generators) are keyed by (seed, iteration, rank).
    - The loss of a window is the mean over its batches, each counted by its ``"weight"`` from the objective, or by its
      number of images: :math:`\\sum_i w_i L_i / \\sum_i w_i`. So accumulating n batches of size b gives the gradient of
      one batch of size n*b, in a shorter last window of an epoch too.
    - fp16 on CUDA scales the loss; gradients are unscaled before their norm is clipped.
    - A loss or a gradient that is not finite ends the run before it reaches a weight. (Under loss scaling only the
      loss is checked: the scaler skips steps whose gradients overflow.)
    - After the optimizer step no gradient is left, so a checkpoint between two windows has none to keep.
    - An objective with methods ``before_step`` and ``after_step`` has them called around the optimizer step, once a
      window: a teacher that is an average of the student moves there, and nothing moves in a forward pass.
    - In a distributed run the objective is put into DistributedDataParallel, which sums the gradients of what learns
      and nothing else. A batch is then that of all processes: its masks, its weights and the loss that is logged are
      those of one process with a batch as large as all of theirs together.

    Args:
        objective: module that computes the loss, on its device already.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"`` of the forward pass; weights stay in fp32.
        clip_norm: largest norm of all gradients together; default: no clipping.
        accumulation: number of batches of a window.
        seed: of the masks and of dropout.

    Raises:
        ValueError: if the precision is unknown, or ``accumulation`` or ``clip_norm`` is not positive.

    Example:
        >>> from monai.engines import SupervisedTrainer
        >>> from monai_essa.engines.objectives import Supervised
        >>> network = nn.Conv3d(1, 1, 3, padding=1)
        >>> objective = Supervised(network, nn.MSELoss())
        >>> trainer = SupervisedTrainer(
        ...     device="cpu", max_epochs=1, network=objective, loss_function=None,
        ...     train_data_loader=[{"image": torch.zeros(1, 1, 8, 8, 8), "label": torch.ones(1, 1, 8, 8, 8)}],
        ...     optimizer=torch.optim.SGD(objective.parameters(), 0.1), iteration_update=TrainStep(objective),
        ... )
        >>> trainer.run()
        >>> sorted(map(str, trainer.state.output[0]))
        ['image', 'label', 'loss', 'pred']
    """

    def __init__(
        self,
        objective: nn.Module,
        precision: str = "fp32",
        clip_norm: float | None = None,
        accumulation: int = 1,
        seed: int = 0,
    ) -> None:
        autocast_dtype(precision)  # refuses an unknown one before the first step
        if accumulation < 1 or (clip_norm is not None and clip_norm <= 0):
            raise ValueError(
                f"accumulation must be at least 1 and clip_norm above 0, got {accumulation} and {clip_norm}"
            )
        self.objective = objective
        self.precision = precision
        self.clip_norm = clip_norm
        self.accumulation = accumulation
        self.seed = seed
        gpus = gpus_among(parameter.device for parameter in objective.parameters())
        self._weights: list[torch.Tensor] = []  # of the batches of this window, over all processes
        self._own_weight = torch.ones(())  # of this process's share of the last one
        self._parallel: nn.Module | None = None
        self.scaler = torch.amp.GradScaler(default_device().type, enabled=precision == "fp16" and bool(gpus))

    def __call__(self, engine: Any, batch: Any) -> dict[str, Any]:
        """Run the step; called by the trainer.

        Args:
            engine: the trainer.
            batch: from its data loader.

        Returns:
            ``engine.state.output``: image, label (where there is one) and every entry of the objective's dictionary,
            detached.

        Raises:
            FloatingPointError: if the loss or, without loss scaling, the norm of the gradients is not finite.
        """
        window = _window(engine.state.iteration, engine.state.epoch_length, self.accumulation)
        device = engine.state.device
        inputs = engine.prepare_batch(batch, device, engine.non_blocking, **engine.to_kwargs)
        inputs, share = own_rows(engine, inputs)
        engine.state.output = {
            name: value for name, value in zip((Keys.IMAGE, Keys.LABEL), inputs, strict=False) if value is not None
        }

        self.objective.train()
        if window.first:
            # Gradients that an earlier use of the network left, such as a cost meter's, must not leak in.
            engine.optimizer.zero_grad(set_to_none=True)
            self._weights.clear()
        with (
            keyed_rng(
                device, self.seed, engine.state.iteration, engine.state.rank, shared=share is not None
            ) as generator,
            sharing(share),
            self._gradients_stay_here(not window.last),
        ):
            loss = self._forward(engine, batch, inputs, generator, share)
            self.scaler.scale(self._weighted(loss, share is not None)).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if window.last:
            self._step(engine, batch)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    @property
    def weight(self) -> float:
        """Return what the loss of the last batch was divided by, over all processes."""
        return float(self._weights[-1])

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: the state of the gradient scaler, empty where there is none."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.scaler.load_state_dict(dict(state))

    def _forward(
        self, engine: Any, batch: Any, inputs: Any, generator: torch.Generator, share: BatchShare | None
    ) -> torch.Tensor:
        with autocast_to(self.precision, engine.state.device):
            first, *others = (plain_tensor(value) for value in inputs)
            parts = dict(engine.inferer(first, self._called(), *others, generator=generator))
        loss, weight = parts[Keys.LOSS], parts.pop("weight", None)
        weight = loss.detach().new_tensor(len(inputs[0])) if weight is None else weight.detach()
        self._own_weight = weight
        if share is not None:
            self._own_weight = weight * bool(share.own)
            parts, weight = shared_means(parts, weight, share)
        self._weights.append(weight)
        engine.state.output.update({name: value.detach() for name, value in parts.items()})
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        if not torch.isfinite(parts[Keys.LOSS]):
            scalars = {name: value.item() for name, value in parts.items() if value.ndim == 0}
            raise FloatingPointError(_not_finite(f"loss ({scalars})", engine.state, batch))
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        return loss

    def _called(self) -> nn.Module:
        """Return what computes the loss: the objective, in a distributed run in DistributedDataParallel."""
        if not in_several_processes() or isinstance(self.objective, DistributedDataParallel):
            return self.objective
        if self._parallel is None:
            self._parallel = in_parallel(self.objective)
        return self._parallel

    def _gradients_stay_here(self, accumulating: bool) -> AbstractContextManager[None]:
        """Return a context without a sum over the processes: only the last batch of a window needs it."""
        called = self._called()
        return called.no_sync() if accumulating and isinstance(called, DistributedDataParallel) else nullcontext()

    def _weighted(self, loss: torch.Tensor, shared: bool) -> torch.Tensor:
        """Return the loss times its weight, in units of the window's first weight to stay in the range of fp16."""
        if shared:  # DistributedDataParallel divides by the number of processes
            return loss * (self._own_weight * process_count() / self._unit()).to(loss)
        return loss if len(self._weights) == 1 else loss * (self._weights[-1] / self._unit())

    def _unit(self) -> torch.Tensor:
        first = self._weights[0]
        return torch.where(first > 0, first, torch.ones_like(first))

    def _step(self, engine: Any, batch: Any) -> None:
        optimizer = engine.optimizer
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._tell_objective("before_step")
        self.scaler.unscale_(optimizer)
        self._divide_by_total_weight(parameters)
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise FloatingPointError(_not_finite(f"norm of the gradients ({norm.item()})", engine.state, batch))
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        self._tell_objective("after_step")

    def _tell_objective(self, moment: str) -> None:
        told = getattr(unwrapped(self.objective), moment, None)
        if told is not None:
            told()

    def _divide_by_total_weight(self, parameters: list[nn.Parameter]) -> None:
        if len(self._weights) > 1:
            total = torch.stack(self._weights).sum()
            share = self._unit() / torch.where(total > 0, total, torch.ones_like(total))
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(share)


class ValidationStep:
    """Compute an objective on unlabelled validation batches; the ``iteration_update`` of a ``SupervisedEvaluator``.

    The masks of a batch are keyed by (seed, "validation", number of the batch): the same in each epoch and each run, so
    a lower loss is a better network and not an easier mask. With ``prepare_batch=prepare_unlabelled_batch`` no label
    has a part in choosing the best checkpoint. In a distributed run a batch is that of all processes, as for
    :class:`TrainStep`.

    Args:
        objective: a pretext objective, on its device.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        seed: of the masks.

    Raises:
        ValueError: if the precision is unknown.

    Example:
        >>> import ignite.metrics
        >>> import torch
        >>> from monai.engines import SupervisedEvaluator
        >>> from monai.handlers import from_engine
        >>> class Masked(nn.Module):
        ...     def forward(self, images, foreground=None, generator=None):
        ...         return {"loss": torch.rand(1, generator=generator).mean()}
        >>> evaluator = SupervisedEvaluator(
        ...     device=torch.device("cpu"), val_data_loader=[{"image": torch.zeros(1, 1, 8, 8)}], network=Masked(),
        ...     iteration_update=ValidationStep(Masked()),
        ...     key_val_metric={"val_loss": ignite.metrics.Average(from_engine("loss", first=True))},
        ... )
        >>> evaluator.run(1); first = evaluator.state.metrics["val_loss"]
        >>> evaluator.run(2); evaluator.state.metrics["val_loss"] == first
        True
    """

    def __init__(self, objective: nn.Module, precision: str = "fp32", seed: int = 0) -> None:
        autocast_dtype(precision)  # refuses an unknown one before the first step
        self.objective = objective
        self.precision = precision
        self.seed = seed

    def __call__(self, engine: Any, batch: Any) -> dict[str, Any]:
        """Run the step; called by the evaluator.

        Args:
            engine: the evaluator.
            batch: from its data loader.

        Returns:
            ``engine.state.output``: the image and every entry of the objective's dictionary.
        """
        device = engine.state.device
        inputs = engine.prepare_batch(batch, device, engine.non_blocking, **engine.to_kwargs)
        inputs, share = own_rows(engine, inputs)
        engine.state.output = {Keys.IMAGE: inputs[0]}
        plain = [plain_tensor(value) for value in inputs]
        with (
            engine.mode(self.objective),
            keyed_rng(device, self.seed, "validation", engine.state.iteration) as generator,
            autocast_to(self.precision, device),
            sharing(share),
        ):
            parts = dict(self.objective(*plain, generator=generator))
        if share is not None:
            weight = parts.pop("weight", parts[Keys.LOSS].new_tensor(len(inputs[0])))
            parts, _ = shared_means(parts, weight, share)
        engine.state.output.update(parts)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Return the number format of autocast for a precision; None for ``"fp32"``, which needs no autocast.

    Args:
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``, as in the configs of the bundles.

    Raises:
        ValueError: if the precision is another.

    Example:
        >>> autocast_dtype("bf16"), autocast_dtype("fp32")
        (torch.bfloat16, None)
    """
    if precision not in _AUTOCAST:
        raise ValueError(f"precision must be one of {', '.join(_AUTOCAST)}, got {precision!r}")
    return _AUTOCAST[precision]


def autocast_to(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a forward pass computes in a precision.

    Args:
        precision: as for :func:`autocast_dtype`.
        device: where the forward pass runs.

    Raises:
        ValueError: if the precision is unknown.

    Example:
        >>> with autocast_to("bf16", torch.device("cpu")):
        ...     torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype
        torch.bfloat16
    """
    dtype = autocast_dtype(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def default_precision() -> str:
    """Return the precision that a run takes unless it names another: ``"bf16"`` where there is CUDA, else ``"fp32"``.

    Example:
        >>> default_precision() in ("bf16", "fp32")
        True
    """
    return "bf16" if is_gpu(default_device()) else "fp32"


@contextmanager
def keyed_rng(device: torch.device, seed: int, *parts: int | str, shared: bool = False) -> Iterator[torch.Generator]:
    """Seed torch's global generators by a key within the block; afterwards they are as before.

    Dropout draws from the global generators, a mask from the generator that the block is given: two keys, so that a
    change of the dropout rate leaves the masks alone.

    Args:
        device: where the step runs.
        seed: the seed of the run.
        parts: what the step is, for example iteration and rank.
        shared: the last part is the rank, and the masks are those of the first process: each draws for all of them.

    Yields:
        A generator on ``device`` for the masks of the step.

    Example:
        >>> with keyed_rng(torch.device("cpu"), 0, 1) as masks:
        ...     first = torch.rand(2, generator=masks), torch.rand(2)
        >>> with keyed_rng(torch.device("cpu"), 0, 1) as masks:
        ...     again = torch.rand(2, generator=masks), torch.rand(2)
        >>> torch.equal(first[0], again[0]), torch.equal(first[1], again[1])
        (True, True)
    """
    with torch.random.fork_rng(devices=gpus_among([device])):
        torch.manual_seed(key(seed, "dropout", *parts))
        masks = (*parts[:-1], 0) if shared else parts
        yield torch.Generator(device).manual_seed(key(seed, "mask", *masks))


@dataclass(frozen=True)
class _Window:
    """Where an iteration stands in its accumulation window, and how many batches the window has."""

    first: bool
    last: bool
    size: int


def _window(iteration: int, epoch_length: int, accumulation: int) -> _Window:
    step = (iteration - 1) % epoch_length
    start = step - step % accumulation
    size = min(accumulation, epoch_length - start)
    return _Window(first=step == start, last=step == start + size - 1, size=size)


def _not_finite(what: str, state: Any, batch: Any) -> str:
    images = batch.get(Keys.IMAGE) if isinstance(batch, Mapping) else None
    files = images.meta.get("filename_or_obj", "files unknown") if isinstance(images, MetaTensor) else "files unknown"
    clean = images is None or bool(torch.isfinite(images).all())
    advice = (
        "the images are finite: lower the learning rate, set clip_norm, or use precision fp32"
        if clean
        else "the image holds NaN or Inf: find it with 'monai-essa data check' and repair it or leave it out"
    )
    keys = f", keys {sorted(batch)}" if isinstance(batch, Mapping) else ""
    return f"{what} is not finite at iteration {state.iteration}, epoch {state.epoch} (images {files}{keys}): {advice}"
