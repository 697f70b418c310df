# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The losses of self-distillation: image tokens (DINO), masked patches (iBOT), spread (KoLeo), anchoring (Gram)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gram_loss", "image_token_loss", "masked_token_loss", "spread_loss"]

_EPSILON = 1e-8


def image_token_loss(student: Tensor, teacher: Tensor, temperature: float = 0.1) -> Tensor:
    r"""Compute the cross-entropy between views (DINO, Caron et al. 2021, arXiv 2104.14294, equation 3).

    The teacher sees the first T views of an image, the student all V, and no pair shares a view:

    .. math:: L = \frac{1}{TV - T} \sum_{t < T} \sum_{v \ne t} \frac{1}{B} \sum_b
              - p_{tb} \cdot \log \operatorname{softmax}(s_{vb} / \tau)

    Args:
        student: logits (V, B, K) of K prototypes, the teacher's T views first.
        teacher: probabilities (T, B, K), without gradient.
        temperature: :math:`\tau` of the student.

    Returns:
        A scalar, in fp32 at least.

    Raises:
        ValueError: if the student has fewer than two views, or fewer than the teacher.

    Example:
        >>> image_token_loss(torch.zeros(2, 4, 8), torch.full((1, 4, 8), 1 / 8))  # ln(8)
        tensor(2.0794)
    """
    views, teachers = len(student), len(teacher)
    if views < 2 or teachers > views:
        raise ValueError(f"expected two student views or more and no more teacher views, got {views} and {teachers}")
    log_probabilities = torch.log_softmax(_at_least_fp32(student) / temperature, dim=-1)
    pairs = -torch.einsum("tbk,vbk->tv", teacher.to(log_probabilities), log_probabilities) / student.shape[1]  # (T, V)
    return (pairs.sum() - pairs.diagonal().sum()) / (teachers * views - teachers)


def masked_token_loss(
    student: Tensor, teacher: Tensor, weights: Tensor, crops: int, temperature: float = 0.1
) -> Tensor:
    r"""Compute the cross-entropy of masked patches (iBOT, Zhou et al. 2022, arXiv 2111.07832, equation 2).

    .. math:: L = \frac{1}{B} \sum_m - w_m \, p_m \cdot \log \operatorname{softmax}(s_m / \tau)

    Args:
        student: logits (M, K) of the masked patches of all crops, which the student did not see.
        teacher: probabilities (M, K) of the same patches, which the teacher saw.
        weights: (M), one over the number of masked patches of the crop, so that each masked crop counts 1.
        crops: B, the number of global crops, those without a mask included, as in DINOv2's code.
        temperature: :math:`\tau` of the student.

    Returns:
        A scalar, in fp32 at least.

    Example:
        >>> masked_token_loss(torch.zeros(3, 8), torch.full((3, 8), 1 / 8), torch.full((3,), 1 / 3), crops=1)
        tensor(2.0794)
    """
    log_probabilities = torch.log_softmax(_at_least_fp32(student) / temperature, dim=-1)
    errors = -(teacher.to(log_probabilities) * log_probabilities).sum(-1)
    return (errors * weights.to(errors)).sum() / crops


def spread_loss(tokens: Tensor) -> Tensor:
    r"""Compute the Kozachenko-Leonenko regulariser (KoLeo, Sablayrolles et al. 2019, arXiv 1806.03198, section 3.2).

    With z the tokens of a group, normalised to length 1:

    .. math:: L = - \frac{1}{n} \sum_i \log \min_{j \ne i} \lVert z_i - z_j \rVert

    Autocast does not affect it: distances of near neighbours have no meaning in half precision.

    Args:
        tokens: image tokens (n, D) of a group, of n patients.

    Returns:
        A scalar, in fp32 at least.

    Raises:
        ValueError: if the group has fewer than two tokens.

    Example:
        >>> spread_loss(torch.eye(4)) + torch.tensor(2.0).sqrt().log() < 1e-6
        tensor(True)
    """
    if len(tokens) < 2:
        raise ValueError(f"expected a group of two image tokens or more, got {len(tokens)}; set its weight to 0")
    with torch.autocast(tokens.device.type, enabled=False):
        unit = F.normalize(_at_least_fp32(tokens), dim=-1, eps=_EPSILON)
        with torch.no_grad():
            similarities = unit @ unit.T
            similarities.fill_diagonal_(-2)  # below any other: a token is no neighbour of its own
            nearest = similarities.argmax(dim=1)
        distances = torch.linalg.vector_norm(unit - unit[nearest] + _EPSILON, dim=-1)
        return -(distances + _EPSILON).log().mean()


def gram_loss(student: Tensor, base: Tensor) -> Tensor:
    r"""Anchor the similarities of patches to those of the base (Gram anchoring, DINOv3, arXiv 2508.10104, sec. 4).

    With X and G the tokens of student and base, each normalised to length 1:

    .. math:: L = \frac{1}{B N^2} \sum_b \lVert X_b X_b^T - G_b G_b^T \rVert_F^2

    Args:
        student: patch tokens (B, N, D).
        base: patch tokens (B, N, D'), without gradient.

    Returns:
        A scalar, in fp32 at least.

    Example:
        >>> gram_loss(torch.ones(1, 2, 3), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        tensor(0.5000)
    """
    with torch.autocast(student.device.type, enabled=False):
        return F.mse_loss(_similarities(student), _similarities(base))


def _similarities(tokens: Tensor) -> Tensor:
    unit = F.normalize(_at_least_fp32(tokens), dim=-1)
    return unit @ unit.transpose(1, 2)


def _at_least_fp32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
