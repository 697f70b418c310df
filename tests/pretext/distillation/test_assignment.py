# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Targets of the teacher: centred by a running mean, or balanced over the prototypes."""

from __future__ import annotations

import logging

import pytest
import torch

from monai_essa.pretext.distillation.assignment import Centring, SinkhornKnopp, sinkhorn_knopp

ONE = torch.tensor(1.0)


def logits(rows: int, prototypes: int) -> torch.Tensor:
    return 3 * torch.randn(rows, prototypes, generator=torch.Generator().manual_seed(rows))


def test_balanced_rows_sum_to_one_and_prototypes_come_closer_with_each_iteration():
    scores, errors = logits(64, 8), []
    for iterations in (1, 3, 30):
        balanced = sinkhorn_knopp(scores, iterations)
        torch.testing.assert_close(balanced.sum(1), torch.ones(64))
        errors.append(float((balanced.sum(0) - 8).abs().max()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3


def test_balancing_scales_rows_and_columns_of_the_exponentials_alone():
    scores = logits(5, 4).double()
    expected = scores.exp()
    for _ in range(3):
        expected = expected / expected.sum(0)
        expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(sinkhorn_knopp(scores, 3), expected, rtol=1e-6, atol=1e-6)


def test_large_scores_do_not_overflow():
    assert torch.isfinite(sinkhorn_knopp(logits(8, 4) * 1000)).all()


def test_many_prototypes_for_few_rows_are_warned_of_once(caplog: pytest.LogCaptureFixture):
    assign = SinkhornKnopp()
    with caplog.at_level(logging.WARNING):
        assign(logits(2, 32), ONE)
        assert not caplog.records
        for _ in range(2):
            assign(logits(2, 33), ONE)
    assert [record.getMessage()[:53] for record in caplog.records] == [
        "Sinkhorn-Knopp has 33 prototypes for 2 rows, more tha"
    ]


def test_the_centre_moves_after_the_step_by_the_mean_of_all_its_batches():
    centring = Centring(prototypes=4, momentum=0.9)
    first, second = logits(6, 4), logits(2, 4)
    before = centring(first, ONE)
    torch.testing.assert_close(before, first.softmax(-1))
    centring(second, ONE)
    assert not centring.centre.any()

    centring.after_step()
    torch.testing.assert_close(centring.centre, 0.1 * torch.cat([first, second]).mean(0))
    torch.testing.assert_close(centring(first, torch.tensor(0.5)), ((first - centring.centre) / 0.5).softmax(-1))


def test_validation_does_not_move_the_centre():
    centring = Centring(prototypes=4).eval()
    centring(logits(3, 4), ONE)
    centring.after_step()
    assert not centring.centre.any()


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="momentum of the centre"):
        Centring(4, momentum=1.5)
    with pytest.raises(ValueError, match="one iteration"):
        SinkhornKnopp(0)
