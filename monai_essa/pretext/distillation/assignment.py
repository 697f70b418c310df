# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Turn the teacher's logits into targets that do not collapse: by a running centre, or by Sinkhorn-Knopp."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from monai_essa.distributed.shares import all_max, all_sum, own_share

__all__ = ["Centring", "SinkhornKnopp", "sinkhorn_knopp"]

_logger = logging.getLogger(__name__)
_FULL = 16  # prototypes for each row, above which Sinkhorn-Knopp has hardly anything to balance


class Centring(nn.Module):
    r"""Subtract a running mean of the logits, then sharpen (DINO, arXiv 2104.14294, section 3.1 and equation 4).

    .. math:: p = \operatorname{softmax}((g - c) / \tau), \qquad c \leftarrow m c + (1 - m) \bar g

    The centre moves in :meth:`after_step`, once for each optimizer step and by the mean over all its batches, so a
    forward pass does not depend on how the batch was divided.

    Args:
        prototypes: K, the width of the logits.
        momentum: m of the centre.

    Raises:
        ValueError: if the momentum is outside [0, 1].

    Example:
        >>> centring = Centring(prototypes=2, momentum=0.5)
        >>> centring(torch.tensor([[2.0, 0.0]]), torch.tensor(1.0)).shape
        torch.Size([1, 2])
        >>> centring.after_step()
        >>> centring.centre
        tensor([1., 0.])
    """

    centre: Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"expected a momentum of the centre from 0 to 1, got {momentum}")
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(prototypes))
        self._sum: Tensor | None = None
        self._rows = 0

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """Return probabilities (rows, K) for logits (rows, K), and keep what moves the centre while training."""
        logits = logits.to(self.centre)
        if self.training:
            total = logits.sum(0)
            self._sum = total if self._sum is None else self._sum + total
            self._rows += len(logits)
        return torch.softmax((logits - self.centre) / temperature, dim=-1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the centre by the mean of the logits since the last step, over all processes."""
        if self._sum is None:
            return
        total, rows = self._sum, self._sum.new_tensor(float(self._rows))
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
            dist.all_reduce(rows)
        self.centre.lerp_(total / rows, 1 - self.momentum)
        self._sum, self._rows = None, 0


class SinkhornKnopp(nn.Module):
    """Balance the targets of a batch over the prototypes (SwAV, Caron et al. 2020, arXiv 2006.09882, section 3.1).

    Each row is a distribution, and each prototype gets about the same share of the rows, those of all processes of a
    run. Where there are many more prototypes than rows there is nothing to balance, and a warning says so once.

    Args:
        iterations: of the balancing; 3 as in DINOv2.

    Raises:
        ValueError: if there are no iterations.

    Example:
        >>> SinkhornKnopp()(torch.eye(4), torch.tensor(1.0)).sum(1)
        tensor([1., 1., 1., 1.])
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"expected one iteration of Sinkhorn-Knopp or more, got {iterations}")
        self.iterations = iterations
        self._warned = False

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """Return probabilities (rows, K) for logits (rows, K)."""
        rows, prototypes = int(all_sum(torch.tensor(len(logits)))), logits.shape[1]
        if prototypes > _FULL * rows and not self._warned:
            self._warned = True
            _logger.warning(
                "Sinkhorn-Knopp has %d prototypes for %d rows, more than %d for each: take fewer prototypes, a larger "
                "batch, or the default centring",
                prototypes,
                rows,
                _FULL,
            )
        return sinkhorn_knopp(logits / temperature, self.iterations)

    def after_step(self) -> None:
        """Do nothing: only a batch is balanced, and nothing is kept of it."""


def sinkhorn_knopp(scores: Tensor, iterations: int = 3) -> Tensor:
    r"""Scale :math:`\exp(scores)` so that rows sum to 1 and columns to about rows / columns.

    Prototypes are balanced first and rows last in each iteration, so the sums of rows are exact and those of columns
    come closer with each iteration. It is computed in logarithms, where nothing overflows. Where processes share a
    batch, the rows are those of all of them.

    Args:
        scores: (rows, K).
        iterations: of the balancing.

    Returns:
        Probabilities (rows, K), in fp32 at least.

    Example:
        >>> sinkhorn_knopp(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), iterations=20).sum(0)
        tensor([1., 1.])
    """
    logs = scores.to(torch.promote_types(scores.dtype, torch.float32))
    for _ in range(iterations):
        logs = logs - _logsumexp_of_all_rows(logs)
        logs = logs - logs.logsumexp(dim=1, keepdim=True)
    return logs.exp()


def _logsumexp_of_all_rows(logs: Tensor) -> Tensor:
    if own_share() is None:
        return logs.logsumexp(dim=0, keepdim=True)
    lowest = logs.new_full((1, logs.shape[1]), torch.finfo(logs.dtype).min)  # of a process without a row
    top = all_max(torch.cat([logs, lowest]).amax(dim=0, keepdim=True))
    return top + all_sum((logs - top).exp().sum(dim=0, keepdim=True)).log()
