# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A batch of all processes, of which each has a share: what is drawn, summed and compared over the whole of it.

Process r of W has the rows r, r + W, r + 2W ... of a batch. Within :func:`sharing`, which the steps of the engine use,
masks are drawn for the whole batch and sums go over all processes, so that W processes compute what one process
computes on the whole batch. Outside of it each function works on the rows that it is given.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from monai_essa.distributed.processes import in_several_processes

__all__ = [
    "BatchShare",
    "all_max",
    "all_rows",
    "all_sum",
    "drawn_rows",
    "in_parallel",
    "own_rows",
    "own_share",
    "shared_means",
    "sharing",
]


@dataclass(frozen=True)
class BatchShare:
    """The share of one process in a batch of all processes.

    Attributes:
        rows: of the batch over all processes.
        rank: of this process.
        count: number of processes.

    Example:
        >>> BatchShare(rows=5, rank=1, count=2).own
        [1, 3]
    """

    rows: int
    rank: int
    count: int

    @property
    def own(self) -> list[int]:
        """The numbers of this process's rows in the batch; none if there are fewer rows than processes."""
        return list(range(self.rank, self.rows, self.count))

    def of_inputs(self, inputs: Sequence[Any], loaded: int) -> tuple[Any, ...]:
        """Leave out the rows that only fill up an epoch, which the sampler puts last; an empty share keeps its row.

        Args:
            inputs: tensors and lists with one row, or a number of rows, for each sample.
            loaded: samples that the loader has put together.
        """
        kept = max(len(self.own), 1)
        if kept == loaded:
            return tuple(inputs)
        return tuple(value if value is None else value[: kept * (len(value) // loaded)] for value in inputs)


_SHARE: ContextVar[BatchShare | None] = ContextVar("share", default=None)


@contextmanager
def sharing(share: BatchShare | None) -> Iterator[None]:
    """Take part in a batch of all processes within the block; None: the batch is this process's own."""
    token = _SHARE.set(share)
    try:
        yield
    finally:
        _SHARE.reset(token)


def own_rows(engine: Any, inputs: Any) -> tuple[Any, BatchShare | None]:
    """Return the inputs of a step without rows that only fill up an epoch, and the share that they are of the batch.

    Args:
        engine: a trainer or an evaluator, in the step of a batch.
        inputs: of that batch, as :meth:`BatchShare.of_inputs` takes them.

    Returns:
        The inputs as they are and None in a run of one process, or with a sampler that knows no shares.
    """
    loader = engine.data_loader
    share_of = getattr(getattr(loader, "sampler", None), "share", None)
    if not in_several_processes() or share_of is None:
        return inputs, None
    batch = (engine.state.iteration - 1) % engine.state.epoch_length
    share: BatchShare = share_of(batch, loader.batch_size)
    loaded = min(loader.batch_size, len(loader.sampler) - batch * loader.batch_size)
    return share.of_inputs(inputs, loaded), share


def in_parallel(objective: nn.Module) -> DistributedDataParallel:
    """Let the gradients of an objective be summed over the processes; nothing else of it travels.

    Its tensors must be alike from the start. A tensor that has no gradient in any process keeps none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the newer name of broadcast_buffers sends buffers at the start
        return DistributedDataParallel(objective, init_sync=False, broadcast_buffers=False, find_unused_parameters=True)


def own_share() -> BatchShare | None:
    """Return the share of this process in the batch that is computed, None if the batch is its own."""
    return _SHARE.get()


def drawn_rows(rows: int, draw: Callable[[int], Tensor]) -> Tensor:
    """Draw random numbers for the rows of a batch: for all rows of all processes, of which this process keeps its own.

    Args:
        rows: of this process. Several rows of a sample, one for each view say, come view by view.
        draw: makes a tensor (count, ...) for a number of rows.

    Returns:
        (rows, ...).

    Example:
        >>> with sharing(BatchShare(rows=4, rank=1, count=2)):
        ...     drawn_rows(2, torch.arange)
        tensor([1, 3])
    """
    share = _SHARE.get()
    if share is None:
        return draw(rows)
    own = share.own or [0]  # a row that fills up an epoch counts nothing, whatever is drawn for it
    views = rows // len(own)
    drawn = draw(share.rows * views)
    return drawn.unflatten(0, (views, share.rows))[:, own].flatten(0, 1)


def shared_means(parts: dict[str, Tensor], weight: Tensor, share: BatchShare) -> tuple[dict[str, Tensor], Tensor]:
    r"""Average scalars over all processes: :math:`\sum_r w_r x_r / \sum_r w_r`.

    Args:
        parts: scalars of this process by name; every process has the same names. Tensors that are no scalars stay.
        weight: of this process's rows.
        share: of this process.

    Returns:
        The means, without gradient, and the sum of all weights.
    """
    weight = weight.detach().double() if share.own else weight.new_zeros((), dtype=torch.float64)
    scalars = {name: value.detach() for name, value in parts.items() if value.ndim == 0}
    terms = [weight, *(weight * value.double() for value in scalars.values())]
    sums = torch.stack([term.to(weight.device) for term in terms])
    dist.all_reduce(sums)
    total = torch.where(sums[0] > 0, sums[0], torch.ones_like(sums[0]))
    means = {name: (sums[place] / total).to(parts[name]) for place, name in enumerate(scalars, start=1)}
    return {name: means.get(name, value) for name, value in parts.items()}, sums[0]


def all_sum(values: Tensor) -> Tensor:
    """Return the sum over all processes of a tensor without gradient."""
    if _SHARE.get() is None:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def all_max(values: Tensor) -> Tensor:
    """Return the largest values over all processes of a tensor without gradient."""
    if _SHARE.get() is None:
        return values
    largest = values.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


def all_rows(own: Tensor) -> Tensor:
    """Return the rows of all processes in the order of the batch; gradients go back to the process of a row.

    A loss of all rows is the same in every process, and each process's gradient of it is summed: scaled by the share
    of each process, as ``TrainStep`` scales it, the sum is the gradient of one process on the whole batch.

    Args:
        own: rows of this process (n, ...), as many as its share has.
    """
    share = _SHARE.get()
    return own if share is None else _AllRows.apply(own, share)


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, share: BatchShare) -> Tensor:
        ctx.share, ctx.shape = share, own.shape
        rows = own.new_zeros((share.rows, *own.shape[1:]))
        rows[share.own] = own[: len(share.own)]
        dist.all_reduce(rows)  # each row is zero but in one process
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        own = total.new_zeros(ctx.shape)
        own[: len(ctx.share.own)] = total[ctx.share.own]
        return own, None
