# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The losses agree with the formulas, written as loops in float64, in value and gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from monai_essa.pretext.distillation import gram_loss, image_token_loss, masked_token_loss, spread_loss

TAU = 0.1


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def assert_same(loss: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], values: Tensor) -> None:
    """Compare value and gradient in float64, and the value of float32."""
    results = []
    for function in (loss, reference):
        leaf = values.clone().requires_grad_()
        result = function(leaf)
        (gradient,) = torch.autograd.grad(result, leaf)
        results.append((result.detach(), gradient))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss(values.float()).double(), results[1][0], rtol=1e-5, atol=1e-5)


def cross_entropy(p: Tensor, s: Tensor) -> Tensor:
    powers = (s / TAU).exp()
    return -sum(p[k] * (powers[k] / powers.sum()).log() for k in range(len(p)))  # type: ignore[return-value]


def test_image_tokens_are_compared_across_views_only():
    student, teacher = draw(4, 3, 5), draw(2, 3, 5).softmax(-1)

    def reference(logits: Tensor) -> Tensor:
        pairs = [(t, v) for t in range(2) for v in range(4) if t != v]
        terms = [cross_entropy(teacher[t, b], logits[v, b]) for t, v in pairs for b in range(3)]
        return sum(terms) / len(terms)  # type: ignore[return-value]

    assert_same(lambda logits: image_token_loss(logits, teacher, TAU), reference, student)


def test_masked_patches_of_a_crop_count_one_together():
    counts, crops = (1, 4), 4
    student, teacher = draw(5, 6), draw(5, 6).flip(0).softmax(-1)
    weights = torch.tensor([1.0, 0.25, 0.25, 0.25, 0.25])

    def reference(logits: Tensor) -> Tensor:
        errors = [cross_entropy(teacher[m], logits[m]) for m in range(5)]
        return (errors[0] / counts[0] + sum(errors[1:]) / counts[1]) / crops

    assert_same(lambda logits: masked_token_loss(logits, teacher, weights, crops, TAU), reference, student)


def test_spread_is_the_log_of_the_nearest_distance():
    def reference(tokens: Tensor) -> Tensor:
        unit = tokens / tokens.norm(dim=1, keepdim=True)
        logs = [min((unit[i] - unit[j]).norm() for j in range(6) if j != i).log() for i in range(6)]
        return -sum(logs) / 6  # type: ignore[return-value]

    assert_same(spread_loss, reference, draw(6, 4))


def test_gram_compares_all_pairs_of_patches():
    student, base = draw(2, 5, 4), draw(2, 5, 3)

    def unit(tokens: Tensor) -> Tensor:
        return tokens / tokens.norm()

    def reference(tokens: Tensor) -> Tensor:
        terms = [
            (unit(tokens[b, i]) @ unit(tokens[b, j]) - unit(base[b, i]) @ unit(base[b, j])) ** 2
            for b in range(2)
            for i in range(5)
            for j in range(5)
        ]
        return sum(terms) / len(terms)  # type: ignore[return-value]

    assert_same(lambda tokens: gram_loss(tokens, base), reference, student)


@pytest.mark.parametrize("kind", ["spread", "gram"])
def test_autocast_leaves_distances_in_full_precision(kind: str):
    tokens = draw(2, 5, 4).float()
    compute = {"spread": lambda: spread_loss(tokens[0]), "gram": lambda: gram_loss(tokens, tokens.flip(0))}[kind]
    expected = compute()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compute(), expected)


def test_a_single_view_and_a_single_token_are_refused():
    with pytest.raises(ValueError, match="expected two student views"):
        image_token_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="got 1; set its weight to 0"):
        spread_loss(torch.zeros(1, 4))
