# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch

from monai_essa.networks import interpolate_positions


def test_same_grid_gives_the_very_tensor():
    positions = torch.randn(1, 8, 6)

    assert interpolate_positions(positions, (2, 2, 2), (2, 2, 2)) is positions


def test_ramp_stays_a_ramp_along_its_axis():
    ramp = torch.arange(8.0).reshape(8, 1, 1).expand(8, 4, 2)
    positions = ramp.reshape(1, -1, 1)

    halved = interpolate_positions(positions, (8, 4, 2), (4, 4, 2)).reshape(4, 4, 2)

    # Each new token lies midway between two old ones.
    assert torch.allclose(halved[:, 0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    assert torch.equal(halved, halved[:, :1, :1].expand_as(halved))


def test_same_count_on_another_grid_is_resampled():
    positions = torch.randn(1, 16, 3)

    assert not torch.equal(interpolate_positions(positions, (2, 8), (4, 4)), positions)


def test_constant_positions_stay_constant_in_2d():
    positions = torch.full((1, 16, 3), 0.7)

    assert torch.allclose(interpolate_positions(positions, (4, 4), (3, 7)), torch.full((1, 21, 3), 0.7))


def test_wrong_count_names_both_numbers():
    with pytest.raises(ValueError, match=r"expected 8 position embeddings for the grid \(2, 2, 2\), got 9"):
        interpolate_positions(torch.zeros(1, 9, 3), (2, 2, 2), (1, 1, 1))
