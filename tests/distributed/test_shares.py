# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a process has of a batch of all processes: its rows, its draws, its masks; all shares together are the whole."""

from __future__ import annotations

import pytest
import torch

from monai_essa.data import KeyedSampler, OwnCases
from monai_essa.distributed.shares import BatchShare, drawn_rows, sharing
from monai_essa.pretext import random_mask
from monai_essa.pretext.distillation.crop_masks import crop_masks


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize(("samples", "count", "batch"), [(5, 2, 2), (15, 2, 4), (7, 3, 2), (4, 4, 1)])
@pytest.mark.parametrize("whole", [False, True])
def test_the_rows_of_all_shares_are_the_batch_of_one_process(samples: int, count: int, batch: int, whole: bool) -> None:
    one = KeyedSampler(samples, 0, whole_batches_of=batch * count if whole else None, process=(0, 1))
    ranks = [
        KeyedSampler(samples, 0, whole_batches_of=batch if whole else None, process=(rank, count))
        for rank in range(count)
    ]
    for sampler in (one, *ranks):
        sampler.set_epoch(3)
    positions = [list(sampler) for sampler in ranks]
    batches = -(-len(ranks[0]) // batch)
    assert batches == -(-len(one) // (batch * count))
    for number in range(batches):
        expected = list(one)[number * batch * count : (number + 1) * batch * count]
        found = {}
        for sampler, own in zip(ranks, positions, strict=True):
            share = sampler.share(number, batch)
            loaded = own[number * batch : (number + 1) * batch]
            assert share.rows == len(expected)
            (kept,) = share.of_inputs([loaded], len(loaded))
            found |= dict(zip(share.own, kept, strict=False))
        assert [found[row] for row in sorted(found)] == expected


def test_each_case_is_evaluated_once_or_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_essa.data.loading.keyed.process_count", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setattr("monai_essa.data.loading.keyed.process_rank", lambda rank=rank: rank)
        found.append((list(OwnCases(range(7))), list(OwnCases(range(7), fill=True))))
    assert sorted(sum((own for own, _ in found), [])) == list(range(7))
    assert [len(filled) for _, filled in found] == [3, 3, 3]
    assert [filled[:2] for _, filled in found] == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(ValueError, match="no more processes than cases to evaluate, got 3 for 2"):
        OwnCases(range(2))


def test_more_processes_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no more processes than samples in an epoch, got 3 for 2: give torchrun"):
        KeyedSampler(2, process=(0, 3))
    assert len(KeyedSampler(2, samples_per_epoch=4, process=(0, 3))) == 2


@pytest.mark.parametrize("rows", [5, 6])
def test_masks_are_those_of_the_whole_batch(rows: int) -> None:
    whole = random_mask(rows, (4, 4), 0.5, seeded())
    for rank in (0, 1):
        share = BatchShare(rows, rank, 2)
        with sharing(share):
            assert torch.equal(random_mask(len(share.own), (4, 4), 0.5, seeded()), whole[share.own])


def test_masks_of_crops_are_those_of_the_whole_batch() -> None:
    views, rows = 2, 5
    whole = crop_masks(views * rows, (4, 4), seeded())
    masked = set(whole.cells.tolist())
    total = 0
    for rank in (0, 1):
        share = BatchShare(rows, rank, 2)
        own = [view * rows + row for view in range(views) for row in share.own]
        with sharing(share):
            part = crop_masks(len(own), (4, 4), seeded())
        assert torch.equal(part.mask, whole.mask[own])
        assert {own[cell // 16] * 16 + cell % 16 for cell in part.cells.tolist()} <= masked
        assert torch.allclose(part.weights.sum(), part.mask.flatten(1).any(1).sum().float())
        total += len(part.cells)
    assert total == len(whole.cells)


def test_a_process_without_a_row_keeps_one_that_counts_nothing() -> None:
    share = BatchShare(rows=1, rank=1, count=2)
    images, nothing, patients = share.of_inputs((torch.zeros(1, 2), None, [4]), 1)
    assert share.own == [] and len(images) == 1 and nothing is None and patients == [4]
    with sharing(share):
        assert len(drawn_rows(1, torch.arange)) == 1
