# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Masks of crops: half of the crops, fixed counts, whole blocks, in 2-D and 3-D."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import max_pool2d

from monai_essa.pretext.distillation.crop_masks import crop_masks


@pytest.mark.parametrize("grid", [(8, 8), (4, 6, 4), (1, 9)])
def test_half_of_the_crops_are_masked_by_shares_from_a_tenth_to_a_half(grid: tuple[int, ...]):
    counts = []
    for seed in range(3):
        masks = crop_masks(8, grid, torch.Generator().manual_seed(seed))
        flat = masks.mask.flatten()
        assert torch.equal(flat.nonzero()[:, 0], masks.cells.sort().values)
        per_crop = masks.mask.flatten(1).sum(1)
        rows = masks.cells // masks.mask[0].numel()
        torch.testing.assert_close(masks.weights, 1 / per_crop[rows].float())
        counts.append(per_crop.sort().values)
    assert (counts[0] > 0).sum() == 4 and all(torch.equal(count, counts[0]) for count in counts)
    shares = counts[0][4:] / masks.mask[0].numel()
    assert 0.1 <= shares.min() and shares.max() <= 0.5


def test_masked_cells_lie_together():
    """Most of them have a masked neighbour on each of two sides, which single cells at random have not."""
    mask = crop_masks(16, (16, 16), torch.Generator().manual_seed(0)).mask.float()
    blocks = 1 - max_pool2d(1 - mask[:, None], 2, 1)  # 2 x 2 windows that are masked whole
    assert blocks.sum() > 0.5 * mask.sum()


def test_the_seed_draws_the_mask():
    one, again, other = (crop_masks(4, (6, 6), torch.Generator().manual_seed(seed)).mask for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize(("crops", "grid"), [(1, (4, 4)), (4, (1, 1, 1))])
def test_a_single_crop_or_cell_is_refused(crops: int, grid: tuple[int, ...]):
    with pytest.raises(ValueError, match="set the weight of iBOT to 0"):
        crop_masks(crops, grid)
