# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Average the updates of LoRA: their products, not their factors.

The average of updates :math:`B_k A_k` is not the product of the averages of their factors. It has rank K r at most, and
with the factors side by side it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LowRank", "averaged_update", "truncated"]


@dataclass(frozen=True, eq=False)
class LowRank:
    """An update in two factors.

    Attributes:
        down: A (r, in) or, of a convolution, (r, in, kernel...).
        up: B (out, r) or (out, r, 1, ...).
    """

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        """The number of columns of B."""
        return len(self.down)


def averaged_update(updates: Sequence[LowRank], shares: Sequence[float]) -> LowRank:
    r"""Return :math:`\sum_k s_k B_k A_k` in two factors, exactly.

    Where all A are equal, as where A was frozen (FFA-LoRA, Sun et al. 2024, arXiv 2403.12313, section 4), that is
    :math:`(\sum_k s_k B_k) A` and the rank stays r; else the factors stand side by side and the rank is K r.

    Args:
        updates: of one layer, in float64.
        shares: of the files, with the sum 1.

    Example:
        >>> one, other = (LowRank(torch.full((1, 2), a), torch.ones(3, 1)) for a in (1.0, 3.0))
        >>> both = averaged_update([one, other], [0.5, 0.5])
        >>> both.rank, (both.up @ both.down)[0]
        (2, tensor([2., 2.]))
    """
    first = updates[0].down
    if all(torch.equal(first, update.down) for update in updates):
        return LowRank(first, torch.stack([s * each.up for s, each in zip(shares, updates, strict=True)]).sum(0))
    down = torch.cat([update.down for update in updates])
    return LowRank(down, torch.cat([s * each.up for s, each in zip(shares, updates, strict=True)], dim=1))


def truncated(update: LowRank, rank: int) -> tuple[LowRank, float]:
    r"""Return the nearest update of a lower rank, and its distance :math:`\lVert M - M_r \rVert / \lVert M \rVert`.

    By the singular values of the product (Eckart and Young 1936), which two QR decompositions give without it. The
    singular values are shared by both factors.

    Args:
        update: M in two factors, in float64.
        rank: r, at most that of the factors.

    Example:
        >>> update = LowRank(torch.eye(2), torch.diag(torch.tensor([4.0, 3.0])))
        >>> truncated(update, 1)[1]
        0.6
    """
    outer, upper = torch.linalg.qr(update.up.flatten(1))
    inner, lower = torch.linalg.qr(update.down.flatten(1).T)
    left, values, right = torch.linalg.svd(upper @ lower.T)
    roots = values[:rank].sqrt()
    up, down = (outer @ left[:, :rank]) * roots, (roots[:, None] * right[:rank]) @ inner.T
    shorter = LowRank(down.reshape(-1, *update.down.shape[1:]), up.reshape(len(update.up), -1, *update.up.shape[2:]))
    whole = float(values.norm())
    return shorter, round(float(values[rank:].norm()) / whole, 12) if whole else 0.0
