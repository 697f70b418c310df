# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch

from monai_essa.engines.steps import keyed_rng

CPU = torch.device("cpu")


def draws(seed: int, *parts: int | str, device: torch.device = CPU) -> tuple[torch.Tensor, torch.Tensor]:
    with keyed_rng(device, seed, *parts) as masks:
        return torch.rand(8, generator=masks, device=device), torch.rand(8, device=device)


def test_draws_depend_on_the_key_only() -> None:
    first = draws(0, 5, 1)
    torch.manual_seed(3)
    assert all(torch.equal(one, again) for one, again in zip(first, draws(0, 5, 1), strict=True))


@pytest.mark.parametrize("other", [(1, 5, 1), (0, 6, 1), (0, 5, 2), (0, "validation", 5)])
def test_seed_iteration_rank_and_purpose_each_change_masks_and_dropout(other: tuple[int, int]) -> None:
    for one, another in zip(draws(0, 5, 1), draws(*other), strict=True):
        assert not torch.equal(one, another)


def test_masks_and_dropout_draw_different_numbers() -> None:
    masks, dropout = draws(0, 5, 1)
    assert not torch.equal(masks, dropout)


def test_the_global_generator_goes_on_as_if_nothing_had_been_drawn() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    draws(0, 5)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.gpu
def test_draws_on_a_gpu_are_keyed_and_leave_its_generator_alone() -> None:
    device = torch.device("cuda")
    torch.cuda.manual_seed(1)
    expected = torch.rand(2, device=device)
    torch.cuda.manual_seed(1)
    first = draws(0, 5, device=device)
    assert torch.equal(torch.rand(2, device=device), expected)
    assert all(torch.equal(one, again) for one, again in zip(first, draws(0, 5, device=device), strict=True))
