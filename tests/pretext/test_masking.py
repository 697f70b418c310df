# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_essa.pretext import block_mask, expand_mask, masked_count, random_mask, split_cells
from monai_essa.pretext.masking import check_ratio, gather_cells, units_of


def seeded(seed: int = 0, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


@pytest.mark.parametrize(
    ("cells", "ratio", "count"),
    [(216, 0.75, 162), (10, 0.6, 6), (27, 0.6, 17), (7, 0.5, 4), (100, 0.07, 7), (100, 0.9, 90), (27, 0.99, 26)]
    + [(8, 0.01, 1), (2, 0.9, 1), (8, 1e-12, 1)],
)
def test_count_is_rounded_up_and_leaves_a_cell_of_each_kind(cells, ratio, count):
    assert masked_count(cells, ratio) == count


@pytest.mark.parametrize("ratio", [0.25, 0.4, 0.5, 0.6, 0.75])
def test_count_is_that_of_the_official_code_of_mae_and_simmim(ratio):
    for cells in range(4, 300):
        expected = min(cells - int(cells * (1 - ratio)), cells - 1)
        assert masked_count(cells, ratio) == expected == min(int(np.ceil(cells * ratio)), cells - 1)


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 75, True, "0.75", float("nan")])
def test_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(ValueError, match=f"mask ratio between 0 and 1, both left out, got {ratio}"):
        check_ratio(ratio)
    with pytest.raises(ValueError, match="mask ratio"):
        masked_count(8, ratio)


def test_single_cell_cannot_be_masked():
    with pytest.raises(ValueError, match="two or more cells .* got 1; use larger crops or smaller patches"):
        random_mask(1, (1, 1, 1), 0.5)


@pytest.mark.parametrize("grid", [(9,), (4, 5), (3, 4, 5), (2, 2, 2, 2)])
def test_every_sample_has_the_exact_count(grid):
    mask = random_mask(5, grid, 0.6, seeded())

    assert mask.dtype == torch.bool
    assert mask.shape == (5, *grid)
    assert set(mask.flatten(1).sum(1).tolist()) == {masked_count(mask[0].numel(), 0.6)}


def test_samples_draw_their_own_masks():
    mask = random_mask(2, (6, 6), 0.5, seeded())

    assert not torch.equal(mask[0], mask[1])


def test_seed_decides_the_mask():
    first, again, other = (random_mask(2, (4, 4, 4), 0.75, seeded(seed)) for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_a_generator_the_global_seed_decides():
    torch.manual_seed(3)
    first = random_mask(2, (4, 4), 0.5)
    torch.manual_seed(3)

    assert torch.equal(first, random_mask(2, (4, 4), 0.5))


def test_generator_leaves_the_global_state_alone():
    before = torch.get_rng_state()

    random_mask(2, (4, 4), 0.5, seeded())

    assert torch.equal(torch.get_rng_state(), before)


def test_every_cell_is_masked_equally_often():
    mask = random_mask(4000, (3, 3), 0.33, seeded())

    # 3 of 9 cells: 1/3, standard deviation 0.0075.
    assert torch.allclose(mask.float().mean(0), torch.full((3, 3), 1 / 3), atol=0.03)


@pytest.mark.parametrize(("grid", "block"), [((4, 6), (2, 3)), ((4, 4, 4), (2, 1, 4))])
def test_blocks_are_masked_whole_and_in_the_exact_count(grid, block):
    mask = block_mask(3, grid, 0.5, block, seeded())

    corners = mask[(slice(None), *(slice(None, None, step) for step in block))]
    assert torch.equal(expand_mask(corners, block), mask)
    assert set(corners.flatten(1).sum(1).tolist()) == {masked_count(corners[0].numel(), 0.5)}


def test_block_that_does_not_divide_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"divide the grid \(4, 5\), got \(2, 2\); crop to a multiple"):
        block_mask(1, (4, 5), 0.5, (2, 2))


def test_expanded_mask_repeats_cells_along_their_axes():
    mask = torch.tensor([[[True, False]]])

    assert expand_mask(mask, (2, 3)).int().tolist() == [[[1, 1, 1, 0, 0, 0]] * 2]


def test_cells_are_split_in_row_major_order():
    mask = random_mask(4, (3, 4, 2), 0.4, seeded())

    visible, masked = split_cells(mask, masked_count(24, 0.4))

    for sample in range(4):
        assert visible[sample].tolist() == (~mask[sample].flatten()).nonzero().flatten().tolist()
        assert masked[sample].tolist() == mask[sample].flatten().nonzero().flatten().tolist()


def test_gathered_cells_are_those_named():
    tokens = torch.arange(12.0).reshape(2, 3, 2)

    assert gather_cells(tokens, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_units_are_counted_in_patches():
    assert units_of((16, 32), (8, 16)) == (2, 2)
    with pytest.raises(ValueError, match=r"mask_unit that is a multiple of the patch size \(16, 16\), got \(24, 16\)"):
        units_of((24, 16), (16, 16))


@pytest.mark.gpu
def test_mask_of_a_cpu_generator_is_the_same_on_the_gpu():
    mask = random_mask(2, (4, 4, 4), 0.75, seeded(), device="cuda")

    assert mask.is_cuda
    assert torch.equal(mask.cpu(), random_mask(2, (4, 4, 4), 0.75, seeded()))


@pytest.mark.gpu
def test_mask_of_a_gpu_generator_stays_where_it_was_drawn():
    assert random_mask(2, (4, 4), 0.5, seeded(device="cuda")).is_cuda
    assert not random_mask(2, (4, 4), 0.5, seeded(device="cuda"), device="cpu").is_cuda
